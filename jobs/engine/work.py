"""The stages of a run: lists of work items, worked until each is done or has failed with a reason that is written down.

Done means that an item's object exists. A stage lists what exists, works the rest, and so goes on where an earlier run
stopped, whatever stopped it; items that failed are tried again. See `jobs.engine.items` for what an item is,
`jobs.engine.workers` for how Ray works them, `jobs.engine.plan` for what begins and ends a run.
"""

import logging
import posixpath
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from jobs.engine import metrics, workers
from jobs.engine.items import ERRORS, Bench, Item, Outcome, Output, Worker, part_name
from jobs.engine.plan import Manifest, Plan, find_plan, open_plan, read_manifest, write_manifest
from jobs.engine.pool import PoolConfig
from jobs.engine.runtime import Progress
from jobs.engine.within import Within
from jobs.storage import Storage
from mami_core.errors import ConfigError, IncompleteRunError

__all__ = [
    "Item",
    "ItemFailure",
    "Manifest",
    "Output",
    "Plan",
    "PoolConfig",
    "StageReport",
    "Worker",
    "find_plan",
    "open_plan",
    "part_name",
    "read_manifest",
    "require_complete",
    "run_stage",
    "run_stages",
    "write_manifest",
]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ItemFailure:
    """An item that is missing from the result, and why."""

    stage: str
    item: str
    key: str
    reason: str
    heals: bool = True
    """Whether it may succeed another time with nothing changed."""


@dataclass(slots=True)
class StageReport:
    """What a stage did."""

    stage: str
    num_items: int
    num_done_before: int
    """Done by earlier runs."""
    num_done: int = 0
    """Done now."""
    failures: list[ItemFailure] = field(default_factory=list)
    bytes: int = 0
    """Written now."""
    seconds: float = 0.0
    """From begin to end of the stage, in this run."""
    busy_seconds: float = 0.0
    """Spent on items that were done now, added up over workers."""
    counters: Counter[str] = field(default_factory=Counter)
    """What the workers counted, added up: for items done now."""

    @property
    def complete(self) -> bool:
        """Whether every item is done."""
        return self.num_done_before + self.num_done == self.num_items

    def summary(self) -> str:
        """One line for people."""
        counted = "".join(f", {count:,.0f} {name}" for name, count in sorted(self.counters.items()))
        failed = f", {len(self.failures)} failed" if self.failures else ""
        return (
            f"{self.stage}: {self.num_done_before + self.num_done} of {self.num_items} items done "
            f"({self.num_done_before} before){failed}{counted}, {self.bytes / 1e6:,.1f} MB, {self.seconds:,.1f} s"
        )


def run_stage(
    storage: Storage,
    items: Iterable[Item],
    worker_class: Callable[..., Worker],
    worker_args: Mapping[str, Any] | None = None,
    *,
    pool: PoolConfig | None,
    show_progress: bool = True,
) -> StageReport:
    """Works all items of a run's only stage; see `run_stages`."""
    stages = run_stages(storage, [items], worker_class, worker_args, pool=pool, show_progress=show_progress)
    with closing(stages):
        return next(stages)


def run_stages(
    storage: Storage,
    stages: Iterable[Iterable[Item]],
    worker_class: Callable[..., Worker],
    worker_args: Mapping[str, Any] | None = None,
    *,
    pool: PoolConfig | None,
    show_progress: bool = True,
) -> Generator[StageReport]:
    """Works the items that are not done yet, stage after stage, by the same workers; what each stage did.

    The next stage begins when its report is asked for: where it reads what this one made, `require_complete` first. Who
    may not ask for all of them closes this (`contextlib.closing`), so that no worker stays.

    Args:
        storage: the run folder.
        stages: all items of each stage, those done included; the keys of a stage lie in one folder.
        worker_class: a class that a worker process can import; see `Worker`. It works the items of all stages.
        worker_args: its keyword arguments: small, since they are sent to every worker, and never tensors.
        pool: how many workers Ray starts. None works the items here, one after the other, without Ray.
        show_progress: whether to show how far it is.

    Raises:
        IncompleteRunError: a stage cannot go on. An item that fails does not raise: see the report's `failures`.
        ConfigError: what all items are worked with is wrong, as only a worker could see.
    """
    whole = [list(items) for items in stages]
    for items in whole:
        _check(items)
    todo = [_missing(storage, items) for items in whole]
    within = Within()
    with closing(_outcomes(todo, worker_class, worker_args or {}, storage, pool, within)) as results:
        for items, missing in zip(whole, todo, strict=True):
            yield _work(storage, items, missing, islice(results, len(missing)), within, show_progress=show_progress)


def _work(
    storage: Storage,
    items: Sequence[Item],
    todo: Sequence[Item],
    results: Iterator[Outcome],
    within: Within,
    *,
    show_progress: bool,
) -> StageReport:
    """One stage, whose items are worked as their outcomes are asked for."""
    recorded = _recorded_failures(storage, items)
    report = StageReport(items[0].stage, len(items), len(items) - len(todo))
    start = time.monotonic()
    if todo:
        _follow(report, todo, results, within, show_progress=show_progress)
    report.seconds = time.monotonic() - start
    _forget_healed(storage, items, recorded, report)
    if not todo:  # otherwise the last line of the progress says as much
        logger.info("%s", report.summary())
    return report


def require_complete(*reports: StageReport) -> None:
    """Ends the run here if anything is missing.

    Raises:
        IncompleteRunError: names what is missing, and why.
    """
    failures = [failure for report in reports for failure in report.failures]
    if not failures:
        return
    lines = [f"  {failure.stage} {failure.item}: {failure.reason}" for failure in failures[:10]]
    more = [f"  … and {len(failures) - 10} more; see {ERRORS}/ in the output folder"] if len(failures) > 10 else []
    raise IncompleteRunError(
        "\n".join(
            [
                f"{len(failures)} work items failed:",
                *lines,
                *more,
                _remedy(failures),
            ]
        )
    )


def _remedy(failures: Sequence[ItemFailure]) -> str:
    wrong = sum(not failure.heals for failure in failures)
    if not wrong:
        return "Run the same command again to try only those again."
    which = "these" if wrong == len(failures) else f"{wrong} of them"
    return f"No second try heals {which}: mend what is said above, then run the same command again to do only those."


def _check(items: Sequence[Item]) -> None:
    if not items:
        raise ConfigError("A stage needs at least one item.")
    distinct = min(len({item.key for item in items}), len({item.index for item in items}))
    if len({item.stage for item in items}) > 1 or distinct < len(items):
        raise ConfigError(f"Items of {items[0].stage!r} need one stage, and a key and an index each.")


def _missing(storage: Storage, items: Sequence[Item]) -> list[Item]:
    """The items that are not done, by one listing."""
    done = {info.path for info in storage.find(_common_folder([item.key for item in items]))}
    return [item for item in items if item.key not in done]


def _common_folder(keys: Sequence[str]) -> str:
    """The deepest folder that holds all keys; "" for the run folder itself."""
    return posixpath.commonpath([key.rpartition("/")[0] for key in keys])


def _recorded_failures(storage: Storage, items: Sequence[Item]) -> set[str]:
    return {info.path for info in storage.find(f"{ERRORS}/{items[0].stage}")}


def _outcomes(
    todo: Sequence[Sequence[Item]],
    worker_class: Callable[..., Worker],
    worker_args: Mapping[str, Any],
    storage: Storage,
    pool: PoolConfig | None,
    within: Within,
) -> Generator[Outcome]:
    if pool is not None and any(todo):
        return workers.outcomes(todo, worker_class, worker_args, storage, pool, within)
    bench = Bench(worker_class, worker_args, storage)
    return (bench.work(item, within.hear(item.key)) for items in todo for item in items)


def _follow(
    report: StageReport, todo: Sequence[Item], results: Iterator[Outcome], within: Within, *, show_progress: bool
) -> None:
    by_key = {item.key: item for item in todo}
    progress = Progress(
        report.stage,
        total=report.num_items,
        done=report.num_done_before,
        silent=not show_progress,
        within=within.together,
    )
    with progress:
        for outcome in results:
            item = by_key.pop(outcome.key)
            within.end(item.key)
            _count(report, item, outcome)
            metrics.count(report.stage, outcome)
            progress.advance(failed=outcome.state != "done", counters=outcome.counters)
            if outcome.state == "refused" and not outcome.heals:
                raise ConfigError(f"{report.stage} {item.name}: {outcome.reason}")
            if outcome.state == "refused":
                raise IncompleteRunError(f"{report.stage} {item.name} could not go on: {outcome.reason}")


def _count(report: StageReport, item: Item, outcome: Outcome) -> None:
    if outcome.state == "done":
        report.num_done += 1
        report.bytes += outcome.bytes
        report.busy_seconds += outcome.seconds
        report.counters.update(outcome.counters)
    else:
        report.failures.append(ItemFailure(item.stage, item.name, item.key, outcome.reason, outcome.heals))


def _forget_healed(storage: Storage, items: Sequence[Item], recorded: set[str], report: StageReport) -> None:
    """Takes away the records of failures that a later run has made good."""
    failed = {failure.key for failure in report.failures}
    for item in items:
        if item.error_key in recorded and item.key not in failed:
            storage.delete(item.error_key)
