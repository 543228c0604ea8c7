"""What an annotating run is about to do, in words: the plan that --dry-run shows."""

from collections.abc import Mapping, Sequence

from jobs.annotating.reading import CLASS_DRAWS
from jobs.annotating.spec import AnnotateSpec
from jobs.annotating.stages import Looked
from jobs.engine.foretold import Step
from jobs.engine.foretold import planned as plan_of
from jobs.engine.items import Item
from mami_core.exemplars.quantile import NUM_BINS
from mami_core.features.looks import SIDE
from mami_core.learning.dissected import Photograph
from mami_core.learning.dissected.locating import NUM_CLASSES
from mami_core.learning.dissected.units import REGION

_PHOTOGRAPH_S, _DETECTED_S, _SORTED_S, _DESCRIBED_S, _CONCEPT_S = 0.08, 0.09, 1e-7, 0.006, 0.02
"""Seconds of one CPU core: a photograph with its maps, a detector on it, a unit's activation on one, a unit and a
concept's neuron."""
_MAPS_BYTES, _WORDS, _PHRASES, _SAID = 50_000, 800, 900, 0.6
"""A photograph's maps; words that thousands of photographs show, and phrases; the share of units of which something is
said."""
_SHOWN = 0.5
"""Exemplars of a unit over several parts of the photographs: so many of them are different ones."""


def planned(
    spec: AnnotateSpec,
    photographs: Sequence[Photograph],
    stages: Mapping[str, Sequence[Item]],
    looked: Mapping[str, Looked],
    *,
    into: str,
) -> str:
    """Work items, bytes and roughly how long it takes; nothing is started.

    Args:
        spec: Of the run.
        photographs: Of the run, as they were read to make it.
        stages: Its work items.
        looked: What is known of each subject.
        into: Where the neurons go.
    """
    count, pixels = len(photographs), 3 * SIDE**2 * len(photographs)
    units = {name: sum(layers.values()) for name, layers in spec.layers.items()}
    total = sum(units.values())
    seen = count * sum(subject.seconds for subject in looked.values())
    peaks = total * (2 * count + 4 * NUM_BINS * len(spec.chunks()))
    regions = total * (1 + _SHOWN * (spec.parts - 1)) * spec.k * (REGION**2 // 8 + 16)
    concepts = len(stages.get("concepts", ())) * spec.concepts_per_item * _WORDS
    phrases = _PHRASES + NUM_CLASSES * any(subject.scores for subject in looked.values())
    neuron = spec.k * (REGION**2 + 8 + phrases)
    of_classes = sum(layers[layer] for name, layers in spec.layers.items() for layer in looked[name].scores)
    described = (total + (CLASS_DRAWS - 1) * of_classes) * spec.parts
    costs = {  # read, written, seconds
        "photographs": (
            sum(photograph.path.stat().st_size for photograph in photographs),
            pixels + _MAPS_BYTES * count,
            (_PHOTOGRAPH_S + _DETECTED_S * len(spec.detect)) * count,
        ),
        "peaks": (len(units) * pixels, peaks, seen),
        "exemplars": (peaks, 8 * described * spec.k, _SORTED_S * described * count),
        "regions": (len(units) * pixels, regions, seen),
        "neurons": (peaks + regions, _SAID * described * neuron, _DESCRIBED_S * described),
        "concepts": (_MAPS_BYTES * count, concepts * neuron, _CONCEPT_S * concepts),
    }
    steps = []
    for name, items in stages.items():
        read, written, seconds = costs[name]
        steps.append(Step(name=name, items=len(items), bytes_read=read, bytes_written=written, seconds=seconds))
    line = f"Annotating {total:,} units of {', '.join(units) or 'no network'} with {count:,} photographs"
    return plan_of(line, steps, into=into)
