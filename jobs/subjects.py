"""Shows what of a network can be labelled, before anything runs.

python -m jobs.subjects timm:vit_base_patch16_224 --weights random:0

Nothing is written. `--layers` takes names, patterns and presets as in jobs.label, and counts what they come to.
"""

import sys
from dataclasses import dataclass
from typing import Annotated, ClassVar

import tyro

from jobs.engine import runtime
from jobs.labelling.specs import SubjectSpec
from jobs.storage.places import settle
from mami_core.exemplars.pace import cost, seconds_an_image, state_bytes
from mami_core.subjects import describe_layers, left_out, list_layers, match_layers
from mami_core.subjects.layers import PRESETS
from mami_core.subjects.measure import operations_by_layer
from mami_core.subjects.said import advice, described, seen


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
    dictionary: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """layer=FILE, as jobs.label takes it."""
    layers: tuple[str, ...] = ()
    """Layers by name, pattern or preset; by default all that can be read, with the default ones marked."""

    def __post_init__(self) -> None:
        settle(self)


def run(job: SubjectsJob) -> int:
    """Print it; the exit code."""
    spec = SubjectSpec(
        name=job.subject,
        weights=job.weights,
        preprocessing=job.preprocessing,
        input_size=job.input_size,
        dictionaries=job.dictionary,
        layers=job.layers,
    )
    subject = spec.load()
    default = set(match_layers(subject, ()))
    chosen = match_layers(subject, job.layers)
    operations = operations_by_layer(subject)
    rows = describe_layers(subject, chosen) if job.layers else list_layers(subject)
    lines = [f"{subject.name}, weights {subject.weights_id}, {seen(subject)}", ""]
    for info in rows:
        mark = "*" if info.name in default else " "
        size = f"{state_bytes(info.num_units) / 1e6:,.1f} MB"
        work = f"{operations.get(info.name, 0) / 1e9:,.3f} G" if operations.get(info.name) else ""
        lines.append(f"{mark} {described(info)}  {size}  {work}".rstrip())
    total = sum(info.num_units for info in describe_layers(subject, chosen))
    lines += ["", f"* by default. Presets: {', '.join(PRESETS)}."]
    lines += advice(subject, chosen, job.layers)
    lines += [f"cannot be read: {reason}" for reason in left_out(subject)]
    what = "these layers" if job.layers else "the default layers"
    seconds = seconds_an_image(subject, chosen)
    lines.append(f"{total:,} neurons in {what}: {cost(operations.get('', 0), total, seconds)}, and as much an item.")
    lines.append(
        f"About {1000 * seconds:,.0f} s of one core to search 1,000 images; features and captions come on top."
    )
    runtime.show("\n".join(lines))
    return runtime.COMPLETE


if __name__ == "__main__":
    sys.exit(runtime.main(SubjectsJob, run))
