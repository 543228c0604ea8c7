"""How far a labelling run is and what is missing, from its storage alone: no cluster is asked.

python -m jobs.status RUN

The exit code is 0 for a finished run and 1 for one that is not.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import ClassVar

import tyro

from jobs.engine import runtime
from jobs.engine.items import ERRORS, Item
from jobs.engine.plan import MANIFEST, find_plan, read_manifest
from jobs.labelling.layout import DROPPED, Layout
from jobs.storage import Storage, redact, storage_for
from jobs.storage.places import settle
from mami_core import contracts
from mami_core.errors import ConfigError

_SHOWN = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusJob:
    """Tell how far a labelling run is and what is missing, from its output folder alone."""

    ADDRESSES: ClassVar = ("run",)

    run: tyro.conf.Positional[str]
    """The run's folder, local or s3://, as mami label was given it."""
    missing: bool = False
    """List every work item that is missing, not only the first few of each stage."""

    def __post_init__(self) -> None:
        settle(self)


def run(job: StatusJob) -> int:
    """Print the status; 0 if the run is finished."""
    storage = storage_for(job.run)
    plan = find_plan(storage)
    if plan is None or "subjects" not in plan.config:
        raise ConfigError(
            f"{redact(storage.url)} holds no labelling run: expected a folder that jobs.label was given as --output."
        )
    present = {info.path for info in storage.find()}
    lost = _lost(storage, present)
    finished = MANIFEST in present and not lost
    runtime.show(_headline(storage, plan.config, finished=finished))
    if lost:
        runtime.show(f"  {lost}")
    failed = _failures(storage, present)
    for items in Layout.of(plan.config).stages().values():
        runtime.show("\n".join(_stage(items, present, failed, shown=None if job.missing else _SHOWN)))
    runtime.show(_dropped(storage, present))
    if not finished:
        runtime.show("\nRun the same command again to finish what is missing.")
    return runtime.COMPLETE if finished else runtime.INCOMPLETE


def _lost(storage: Storage, present: set[str]) -> str:
    """What a finished run has lost since; empty where nothing."""
    listed = read_manifest(storage).files if MANIFEST in present else ()
    gone = [file.path for file in listed if file.path not in present]
    if not gone:
        return ""
    return (
        f"It was finished, and has lost {len(gone):,} files since, the first is {gone[0]}. Delete {MANIFEST} and run "
        "the same command again to make them anew."
    )


def _headline(storage: Storage, config: dict, *, finished: bool) -> str:
    neurons = sum(sum(subject["layers"].values()) for subject in config["subjects"].values())
    what = f"{neurons:,} neurons of {', '.join(config['subjects'])}, {config['images']['count']:,} images"
    return f"{redact(storage.url)}: {what}, {'finished' if finished else 'not finished'} (looked at {_now()})"


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _failures(storage: Storage, present: set[str]) -> dict[str, str]:
    """Why items failed, by the object that they should have made."""
    records = [json.loads(storage.read(path)) for path in sorted(present) if path.startswith(f"{ERRORS}/")]
    return {record["key"]: record["reason"] for record in records}


def _dropped(storage: Storage, present: set[str]) -> str:
    """How many rows are left out for good; known once all images were searched."""
    if DROPPED not in present:
        return "  dropped: not known yet"
    table = contracts.from_parquet(storage.read(DROPPED), contracts.DROPPED, where=DROPPED)
    return f"  dropped: {table.num_rows:,} rows{f', see {DROPPED}' if table.num_rows else ''}"


def _stage(items: Sequence[Item], present: set[str], failed: dict[str, str], *, shown: int | None) -> list[str]:
    """One line for the stage, and one for each item that is missing."""
    missing = [item.key for item in items if item.key not in present]
    num_failed = sum(key in failed for key in missing)
    also = f", {num_failed} failed" if num_failed else ""
    lines = [f"  {items[0].stage:<10} {len(items) - len(missing):>7,} of {len(items):,} items done{also}"]
    if len(missing) == len(items) and not num_failed:
        return lines  # a stage that has not begun lacks everything, which one number says
    missing.sort(key=lambda key: key not in failed)  # failures first: somebody has to look at them
    lines += [f"    {key}: {f'failed: {failed[key]}' if key in failed else 'not done yet'}" for key in missing[:shown]]
    if shown is not None and shown < len(missing):
        lines.append(f"    … and {len(missing) - shown:,} more (--missing lists them)")
    return lines


if __name__ == "__main__":
    sys.exit(runtime.main(StatusJob, run))
