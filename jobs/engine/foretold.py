"""What a command would do, in words: the plan that --dry-run shows, of the same form for every command."""

from collections.abc import Sequence
from dataclasses import dataclass

from jobs.storage import Storage, redact


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One stage of the work, or one thing that is read or written. None is what nobody has worked out."""

    name: str
    items: int = 1
    """Work items, or files."""
    bytes_read: float | None = 0.0
    bytes_written: float | None = 0.0
    requests: float | None = None
    """To the storage; by default one for each item."""
    seconds: float | None = 0.0
    """Of one worker."""


def reading(name: str, storage: Storage, folder: str, *, seconds: float = 0.0) -> Step:
    """What it takes to read the files of a folder."""
    found = storage.find(folder)
    return Step(name=name, items=len(found), bytes_read=sum(info.size for info in found), seconds=seconds)


def planned(first_line: str, steps: Sequence[Step], *, into: str | None, notes: Sequence[str] = ()) -> str:
    """The plan: what is about to happen, each step, and what it comes to.

    Args:
        first_line: What is about to happen.
        steps: In their order.
        into: Where what is written goes; None where nothing is.
        notes: What else should be known before.
    """
    lines = [first_line, "", *table(steps), "", f"  {ending(steps, into=into)}"]
    return "\n".join([*lines, *(f"  {note}" for note in notes), "  Nothing was started."])


def table(steps: Sequence[Step], worker: str = "CPU core") -> list[str]:
    """A line a step, below the names of its columns."""
    width = max([12, *(len(step.name) + 2 for step in steps)])
    columns = f"{'items':>8}{'read':>12}{'written':>12}{'requests':>12}{f'one {worker}':>14}"
    return [f"  {'':<{width}}{columns}", *(f"  {step.name:<{width}}{_numbers(step)}" for step in steps)]


def ending(steps: Sequence[Step], *, into: str | None, worker: str = "CPU core") -> str:
    """What the steps come to: `About 4 min for one CPU core, 12 MB into LABELS: a rough guess`."""
    known = sum(step.seconds or 0.0 for step in steps)
    more = " and what is not estimated" if any(step.seconds is None for step in steps) else ""
    written = size(sum(step.bytes_written or 0.0 for step in steps))
    where = "and nothing is written" if into is None else f"{written} into {redact(into)}"
    return f"About {duration(known)} for one {worker}{more}, {where}: a rough guess."


def _numbers(step: Step) -> str:
    requests = step.items if step.requests is None else step.requests
    sizes = "".join(f"{size(count):>12}" for count in (step.bytes_read, step.bytes_written))
    return f"{step.items:>8,}{sizes}{requests:>12,.0f}{duration(step.seconds):>14}"


def size(count: float | None) -> str:
    """`12 MB`."""
    if count is None:
        return "?"
    for unit, each in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if count >= each:
            return f"{count / each:,.{1 if unit == 'GB' else 0}f} {unit}"
    return f"{count:,.0f} B" if count else "–"


def duration(seconds: float | None) -> str:
    """`90 s`, `12 min`, `3.5 h`."""
    if seconds is None:
        return "?"
    if seconds < 90:
        return f"{seconds:,.0f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"
