"""How far workers are inside their items: told a few times a minute, and never waited for.

A worker calls `tell("images", 32, of=512)` as it goes; outside an item that does nothing. Who works the item listens
(`telling`), and hands on what it hears to a `Within`, which the stage's progress asks.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

INTERVAL_S = 10.0
"""Between two words of one worker."""


@dataclass(slots=True)
class Heard:
    """What a worker has done of one item."""

    counters: dict[str, float] = field(default_factory=dict)
    """How many of what."""
    share: float = 0.0
    """Of the whole item, at most 1."""


Listener = Callable[[Heard], None]

_local = threading.local()


@contextmanager
def telling(
    listener: Listener, *, interval_s: float | None = None, clock: Callable[[], float] = time.monotonic
) -> Iterator[None]:
    """Inside, what this thread tells goes to the listener, every so often: by default every `INTERVAL_S`."""
    _local.said = _Said(listener, INTERVAL_S if interval_s is None else interval_s, clock)
    try:
        yield
    finally:
        _local.said = None


def tell(what: str, count: float, *, of: float) -> None:
    """So many more are done, of the so many that the item has."""
    said = getattr(_local, "said", None)
    if said is not None:
        said.add(what, count, of)


class _Said:
    def __init__(self, listener: Listener, interval_s: float, clock: Callable[[], float]) -> None:
        self._listener, self._interval_s, self._clock = listener, interval_s, clock
        self._counts: dict[str, float] = {}
        self._next = clock() + interval_s

    def add(self, what: str, count: float, of: float) -> None:
        self._counts[what] = self._counts.get(what, 0) + count
        now = self._clock()
        if now >= self._next:
            self._next = now + self._interval_s
            self._listener(Heard(dict(self._counts), min(1.0, self._counts[what] / max(of, 1))))


class Within:
    """What is known of the items that are being worked: by the item's key, until it ends."""

    def __init__(self) -> None:
        self._here: dict[str, Heard] = {}
        self._ended: set[str] = set()
        self.ask: Callable[[], Mapping[str, Heard]] = lambda: self._here
        """Where to look; by default here, in this process."""

    def hear(self, key: str) -> Listener:
        """Listens to the worker of one item, in this process."""
        return lambda heard: self._here.__setitem__(key, heard)

    def end(self, key: str) -> None:
        """The item is counted as a whole from now on."""
        self._ended.add(key)

    def together(self) -> Heard:
        """Everything that is under way: counts, and how many items' worth of shares."""
        counters: Counter[str] = Counter()
        under_way = [heard for key, heard in self.ask().items() if key not in self._ended]
        for heard in under_way:
            counters.update(heard.counters)
        return Heard(dict(counters), sum(heard.share for heard in under_way))
