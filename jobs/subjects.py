"""Shows what of a network can be labelled, before anything runs.

python -m jobs.subjects timm:vit_base_patch16_224 --weights random:0

Nothing is written. `--layers` takes names, patterns and presets as in jobs.label, and counts what they come to.
"""

import sys
from dataclasses import dataclass
from typing import ClassVar

import tyro

from jobs.engine import runtime
from jobs.labelling.specs import SubjectSpec
from jobs.storage.places import settle
from mami_core.exemplars.quantile import NUM_BINS
from mami_core.subjects import left_out, list_layers, match_layers
from mami_core.subjects.layers import PRESETS
from mami_core.subjects.measure import operations_by_layer
from mami_core.subjects.said import described

_K = 15
_BYTES = 8 * _K + 4 * NUM_BINS
"""Of a unit's state in the first stage: exemplars and histogram."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubjectsJob:
    """Show the layers of a network: kind, grid, units, bytes of state, operations; and what cannot be read and why."""

    ADDRESSES_OR_NAMES: ClassVar = ("weights",)

    subject: tyro.conf.Positional[str]
    """The network's name, as mami label takes it."""
    weights: str | None = None
    """Weights file, local or s3://, or random:SEED."""
    preprocessing: str | None = None
    """The published weights whose preprocessing the file gets."""
    input_size: int | None = None
    """Side of the input in pixels, if not the usual one."""
    layers: tuple[str, ...] = ()
    """Layers by name, pattern or preset; by default all that can be read, with the default ones marked."""

    def __post_init__(self) -> None:
        settle(self)


def run(job: SubjectsJob) -> int:
    """Print it; the exit code."""
    spec = SubjectSpec(
        name=job.subject, weights=job.weights, preprocessing=job.preprocessing, input_size=job.input_size
    )
    subject = spec.load()
    default = set(match_layers(subject, ()))
    chosen = set(match_layers(subject, job.layers)) if job.layers else None
    operations = operations_by_layer(subject)
    rows = [info for info in list_layers(subject) if chosen is None or info.name in chosen]
    height, width = subject.input_shape[1:]
    lines = [
        f"{subject.name}, weights {subject.weights_id}, sees {height} x {width} pixels, "
        f"{operations.get('', 0) / 1e9:,.2f} billion operations an image",
        "",
    ]
    for info in rows:
        mark = "*" if info.name in default else " "
        size = f"{info.num_units * _BYTES / 1e6:,.1f} MB"
        work = f"{operations.get(info.name, 0) / 1e9:,.3f} G" if operations.get(info.name) else ""
        lines.append(f"{mark} {described(info)}  {size}  {work}".rstrip())
    total = sum(info.num_units for info in rows if chosen or info.name in default)
    lines += ["", f"* by default. Presets: {', '.join(PRESETS)}."]
    lines += [f"cannot be read: {reason}" for reason in left_out(subject)]
    what = "these layers" if chosen else "the default layers"
    lines.append(f"{total:,} neurons in {what}: {total * _BYTES / 1e6:,.1f} MB of state a worker, and as much an item.")
    runtime.show("\n".join(lines))
    return runtime.COMPLETE


if __name__ == "__main__":
    sys.exit(runtime.main(SubjectsJob, run))
