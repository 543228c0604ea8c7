"""How far a stage is: one moving line on a terminal, a line every few seconds in a log."""

import logging
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import timedelta
from types import TracebackType

from jobs.engine.within import Heard

logger = logging.getLogger(__name__)

_RATED = ("images", "neurons")
"""Counters that say how fast the work goes; the others only say what came of it."""


def counted(counters: Mapping[str, float], seconds: float) -> list[str]:
    """`2,560 images (812/s)` and `3 dropped`; nothing of what did not happen."""
    return [
        f"{count:,.0f} {name}{f' ({count / seconds:,.1f}/s)' if name in _RATED and seconds else ''}"
        for name, count in sorted(counters.items())
        if count
    ]


class Progress:
    """Counts items of a stage while they finish, and says so.

    `with Progress("exemplars", total=64, done=3) as progress:` and `progress.advance(counters={"images": 512})`.
    """

    def __init__(
        self,
        title: str,
        *,
        total: int,
        done: int = 0,
        things: str = "items",
        interval_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
        terminal: bool | None = None,
        silent: bool = False,
        within: Callable[[], Heard] = Heard,
    ) -> None:
        """Args: `done`, items finished by an earlier run: they count, but not for the rate; `things`, what they are.

        `within` says how far the items are that are under way: their counters, and how many items' worth it is.
        """
        self.title, self.total, self.done_before, self._things = title, total, done, things
        self.done = self.failed = 0
        self.counters: Counter[str] = Counter()
        self._interval_s, self._clock = interval_s, clock
        self._silent, self._within = silent, within
        self._terminal = sys.stderr.isatty() if terminal is None else terminal
        self._start = clock()
        self._ended = threading.Event()

    def __enter__(self) -> "Progress":
        self._start = self._clock()
        # In a thread of its own, so that a line comes even while every item takes minutes.
        self._thread = threading.Thread(target=self._report_until_ended, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()
        self._show(last=True)

    def advance(self, *, failed: bool = False, counters: Mapping[str, float] | None = None) -> None:
        """One more item is done, or has failed."""
        self.done += not failed
        self.failed += failed
        self.counters.update(counters or {})

    def line(self) -> str:
        """`exemplars: 12/64 items (3 before), 2,560 images (812/s), 1 failed, 0:01:20 left`."""
        elapsed = max(self._clock() - self._start, 1e-9)
        before = f" ({self.done_before} before)" if self.done_before else ""
        under_way = self._under_way()
        parts = [f"{self.done_before + self.done}/{self.total} {self._things}{before}"]
        parts += counted(self.counters + Counter(under_way.counters), elapsed)
        parts += [f"{self.failed} failed"] if self.failed else []
        return f"{self.title}: {', '.join(parts)}, {self._time(elapsed, under_way.share)}"

    def _under_way(self) -> Heard:
        """Nothing, where nobody answers: progress must not stop the work."""
        try:
            return self._within()
        except Exception as error:
            logger.debug("Nobody says how far the items are: %r", error)
            return Heard()

    def _time(self, elapsed: float, under_way: float) -> str:
        handled = self.done + self.failed
        rest = self.total - self.done_before - handled
        if rest <= 0:
            return f"took {timedelta(seconds=round(elapsed))}"
        worked = handled + under_way
        left = max(0.0, rest - under_way)
        return f"{timedelta(seconds=round(elapsed * left / worked))} left" if worked else "time left unknown"

    def _report_until_ended(self) -> None:
        while not self._ended.wait(0.5 if self._terminal else self._interval_s):
            self._show()

    def _show(self, *, last: bool = False) -> None:
        if self._silent:
            return
        if self._terminal:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\033[K{self.line()[:width]}", end="\n" if last else "", file=sys.stderr, flush=True)
        else:
            logger.info("%s", self.line())
