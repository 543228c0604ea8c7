"""The stages that turn annotated photographs into annotated neurons: what each makes.

photographs   a chunk of photographs → pixels and concept maps     photographs/part-….npy, _work/maps/part-….safetensors
peaks         a chunk, for a subject → peaks and histograms        _work/peaks/SUBJECT/part-….safetensors
exemplars     a subject's layer → exemplars, from all chunks       _work/exemplars/SUBJECT/LAYER.safetensors
regions       a chunk, for a subject → regions of exemplars in it  _work/regions/SUBJECT/part-….safetensors
neurons       a subject's layer → annotated neurons                SUBJECT.LAYER[.DRAW]/…, _work/said-3/…
concepts      some of the concept neurons                          concepts.NUMBER/…, _work/said-3/…
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jobs.annotating.describing import DescribeUnits, MakeConcepts
from jobs.annotating.photographs import ReadPhotographs
from jobs.annotating.reading import FindExemplars, ReadPeaks, ReadRegions, exemplars_key
from jobs.annotating.spec import AnnotateSpec
from jobs.engine.items import Item, Output, Worker
from jobs.engine.kept import one_at_a_time
from jobs.labelling.specs import SubjectSpec
from jobs.storage import Storage, safe_name
from mami_core.errors import SubjectError
from mami_core.exemplars.pace import seconds_an_image
from mami_core.learning.dissected.locating import NUM_CLASSES
from mami_core.subjects import Subject, list_layers, match_layers

SAID = "_work/said-3"
"""Another number when more is kept of what is said: runs begun before describe all their exemplars anew."""
_WORKERS: Mapping[str, Callable[[AnnotateSpec], Worker]] = {
    "photographs": ReadPhotographs,
    "peaks": ReadPeaks,
    "exemplars": FindExemplars,
    "regions": ReadRegions,
    "neurons": DescribeUnits,
    "concepts": MakeConcepts,
}


class Annotator:
    """Works the items of all stages, each by its worker; what a stage has loaded is let go when the next begins."""

    def __init__(self, spec: AnnotateSpec) -> None:
        self._of_stage = one_at_a_time(lambda stage: _WORKERS[stage](spec))

    def process(self, item: Item, storage: Storage) -> Output:
        """As the stage's worker does."""
        return self._of_stage(item.stage).process(item, storage)


@dataclass(frozen=True, slots=True)
class Looked:
    """What a run must know of a subject before it begins."""

    weights: str
    """Their identity."""
    layers: dict[str, int]
    """Those that are read, with their numbers of units."""
    depths: dict[str, float]
    scores: set[str]
    """Which of the layers are ImageNet's class scores."""
    seconds: float
    """What a photograph takes one core of this machine."""


def stages(spec: AnnotateSpec, num_concept_items: int, looked: Mapping[str, Looked]) -> dict[str, list[Item]]:
    """The work items of every stage, in the order of the stages."""
    chunks = range(len(spec.chunks()))
    names = [subject.name for subject in spec.subjects]
    layers = [(name, layer) for name in names for layer in spec.layers[name]]
    by_chunk = [{"subject": name, "chunk": chunk} for name in names for chunk in chunks]
    classes = any(looked[name].scores for name in names)
    by_layer = [
        {
            "subject": name,
            "layer": layer,
            "depth": spec.depths[name][layer],
            "is_classes": layer in looked[name].scores,
            "classes": classes,
        }
        for name, layer in layers
    ]
    found: dict[str, list[tuple[str, dict[str, Any]]]] = {
        "photographs": [(f"photographs/{spec.part(chunk)}.npy", {}) for chunk in chunks]
    }
    for stage in ("peaks", "regions"):
        found[stage] = [
            (f"_work/{stage}/{safe_name(one['subject'])}/{spec.part(one['chunk'])}.safetensors", one)
            for one in by_chunk
        ]
    found["exemplars"] = [(exemplars_key(one["subject"], one["layer"]), one) for one in by_layer]
    found["neurons"] = [(f"{SAID}/{safe_name(one['subject'])}.{safe_name(one['layer'])}.csv", one) for one in by_layer]
    found["concepts"] = [
        (f"{SAID}/concepts.{number:03d}.csv", {"classes": classes}) for number in range(num_concept_items)
    ]
    return {
        stage: [Item(stage, i, len(found[stage]), key, payload) for i, (key, payload) in enumerate(found[stage])]
        for stage in _WORKERS
        if found[stage]
    }


def look_at(spec: SubjectSpec) -> Looked:
    """Loads the subject once."""
    subject = spec.load()
    infos = {info.name: info for info in list_layers(subject)}
    chosen = list(match_layers(subject, spec.layers))
    scores = {layer for layer in _last(subject, tuple(infos)) if infos[layer].num_units == NUM_CLASSES}
    chosen += [layer for layer in scores if not spec.layers and layer not in chosen]
    depths = {layer: place / max(1, len(infos) - 1) for place, layer in enumerate(infos) if layer in chosen}
    layers = {layer: infos[layer].num_units for layer in chosen}
    seconds = seconds_an_image(subject, chosen)
    return Looked(subject.weights_id, layers, depths, scores & set(chosen), seconds)


def _last(subject: Subject, layers: tuple[str, ...]) -> tuple[str, ...]:
    """The last vector that the network gives, wherever it is in the list; where it gives maps only, the last of it."""
    try:
        return match_layers(subject, ("head",))
    except SubjectError:
        return layers[-1:]
