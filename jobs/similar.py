"""Finds the neurons most like one, over the layers and networks of a run, by the features of their exemplars.

python -m jobs.similar RUN LAYER UNIT
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import pyarrow.compute as pc
import tyro

from jobs.engine import runtime
from jobs.engine.foretold import Step, planned, reading
from jobs.engine.work import require_complete, run_stage
from jobs.reporting.layout import vector_items
from jobs.reporting.readings import DIRECTION, Directions, Likeness
from jobs.reporting.sources import Source, open_sources
from jobs.storage.places import settle
from mami_core.errors import ConfigError
from mami_core.labels import labels_at
from mami_core.neurons import inventory


@dataclass(frozen=True, slots=True, kw_only=True)
class SimilarJob:
    """List the neurons whose exemplars show most nearly the same: over all layers and networks of the run."""

    ADDRESSES: ClassVar = ("run", "among")
    ADDRESSES_OR_NAMES: ClassVar = ("captioner",)

    run: tyro.conf.Positional[str]
    """The run's folder, local or s3://."""
    layer: tyro.conf.Positional[str]
    """The neuron's layer."""
    unit: tyro.conf.Positional[int]
    """Its number in the layer."""
    subject: str | None = None
    """Its network, where the run has several."""
    among: tuple[str, ...] = ()
    """Further runs to look in; only those that the same captioner labelled can be compared."""
    captioner: str | None = None
    """The captioner's folder, if it is no longer where the runs had it from."""

    def __post_init__(self) -> None:
        settle(self)


def run(job: SimilarJob) -> int:
    """Print the neurons, the most alike first, with the cosine of what they show."""
    sources = open_sources([job.run, *job.among], job.captioner)
    number = _chosen(sources, job)
    source = sources[number]
    if source.captioner is None:
        raise ConfigError(" ".join(source.notes))
    for each, other in enumerate(sources):
        if other.captioner is not None:
            args = {"sources": sources}
            items = vector_items(each, other)
            require_complete(run_stage(other.storage, items, Directions, args, pool=None, show_progress=False))
    layer = list(source.layout.subjects[source.subject]).index(job.layer)
    (nearest,) = Likeness(sources).nearest(number, layer, [job.unit])
    if not nearest:
        raise ConfigError(f"{job.layer} {job.unit} was active on no image: it is like nobody.")
    runtime.show(_line(1, source, job.layer, job.unit))
    for other, place, unit, cosine in nearest:
        alike = sources[other]
        runtime.show(_line(cosine, alike, list(alike.layout.subjects[alike.subject])[place], unit))
    return runtime.COMPLETE


def plan(job: SimilarJob) -> str:
    """What `run` would do."""
    sources = open_sources([job.run, *job.among], job.captioner)
    _chosen(sources, job)
    steps = []
    for number, source in enumerate(sources):
        items = vector_items(number, source) if source.captioner is not None else []
        missing = [item for item in items if not source.storage.exists(item.key)]
        share, features = len(missing) / max(len(items), 1), reading(source.name, source.storage, "_work/features")
        steps.append(
            Step(
                name=f"directions of {source.name}",
                items=len(missing),
                bytes_read=share * (features.bytes_read or 0),
                bytes_written=2.0 * DIRECTION * source.layout.neurons_per_item * len(missing),
                requests=len(missing) * (features.items + 1),
            )
        )
    line = f"Looking for the neurons most like unit {job.unit} of {job.layer}, among {len(sources)} networks"
    return planned(line, steps, into=f"{sources[0].url}/_work/vectors")


def _chosen(sources: Sequence[Source], job: SimilarJob) -> int:
    """Which source the neuron belongs to.

    Raises:
        ConfigError: it belongs to none; says what there is.
    """
    of_run = [number for number, source in enumerate(sources) if source.url == sources[0].url]
    named = [number for number in of_run if job.subject in (None, sources[number].subject)]
    if len(named) != 1:
        names = ", ".join(sources[number].subject for number in of_run)
        raise ConfigError(f"--subject: expected one of {names}, got {job.subject or 'none'}.")
    layout, subject = sources[named[0]].layout, sources[named[0]].subject
    if job.unit not in layout.units(subject, job.layer):
        there = inventory({name: layout.units(subject, name) for name in layout.subjects[subject]})
        raise ConfigError(f"There is no unit {job.unit} of {job.layer!r}. Expected one of, with their units: {there}.")
    return named[0]


def _line(cosine: float, source: Source, layer: str, unit: int) -> str:
    table = labels_at(source.url, subject=source.subject, layer=layer)
    caption = table["caption"][pc.index(table["unit"], unit).as_py()].as_py()
    return f"{cosine:6.3f}  {source.name} / {layer} / {unit}  {caption or '(says nothing)'}"


if __name__ == "__main__":
    sys.exit(runtime.main(SimilarJob, run, plan=plan))
