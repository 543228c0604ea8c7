"""Work items, and how one is worked.

An item is a deterministic piece of a stage: what it makes follows from the item and the plan alone. Its output is one
or several complete objects under names that follow from the item, and the item is done when its own object, the last
one, exists. So an item may be worked twice, or by two machines at once, and nothing is different.
"""

import json
import logging
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from jobs.engine.within import Listener, telling
from jobs.storage import Storage
from jobs.storage.redaction import redact
from jobs.storage.retries import one_line
from mami_core.errors import (
    CheckpointError,
    ConfigError,
    DescriptionsError,
    MamiError,
    MissingObjectError,
    StorageError,
    StorageRefusedError,
    SubjectError,
    is_bad_input,
)

logger = logging.getLogger(__name__)

ERRORS = "_errors"
MAX_TRIES = 3
"""How often an item that raises is tried in one run: a device or a file system may have had a bad moment."""
_PAUSE_S = 0.5
_NO_BETTER_FOR_OTHERS = (StorageRefusedError, ConfigError, SubjectError, CheckpointError, DescriptionsError)
"""What is wrong is not the item's own piece, but what all items are worked with."""


def part_name(index: int, count: int) -> str:
    """`part-00003-of-00012`: the name of the fourth of twelve parts."""
    return f"part-{index:05d}-of-{count:05d}"


@dataclass(frozen=True, slots=True)
class Item:
    """One piece of a stage."""

    stage: str
    """The stage's name, also below `_errors/`: "exemplars", or "captions/SUBJECT"."""
    index: int
    """Which piece, from 0."""
    count: int
    """How many pieces the stage has."""
    key: str
    """The object whose existence means that the item is done, below the run folder."""
    payload: dict[str, Any] = field(default_factory=dict)
    """What the worker needs to know beyond the index: JSON values, and few of them."""

    @property
    def name(self) -> str:
        """`part-00003-of-00012`."""
        return part_name(self.index, self.count)

    @property
    def error_key(self) -> str:
        """Where it is written down if the item fails."""
        return f"{ERRORS}/{self.stage}/{self.name}.json"

    def to_json(self) -> str:
        """The item as text; `from_json` gives it back."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "Item":
        """The item that `to_json` wrote."""
        return Item(**json.loads(text))


@dataclass(frozen=True, slots=True)
class Output:
    """What an item made."""

    objects: bytes | Mapping[str, bytes]
    """The item's object; or several by name, among them the item's own, which is written last."""
    counters: Mapping[str, float] = field(default_factory=dict)
    """What was counted while working, such as {"images": 512}; added up over the stage."""


class Worker(Protocol):
    """Works items. Made once in each process, with keyword arguments that are small and can be pickled."""

    def process(self, item: Item, storage: Storage) -> Output:
        """What the item makes. It may read from the storage; writing is done for it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of an item."""

    key: str
    """The item's."""
    state: str
    """"done"; "failed"; or "refused": no other item would fare better, and the stage ends."""
    reason: str = ""
    heals: bool = True
    """Whether the same item may succeed another time, with nothing changed: not where its input is wrong."""
    bytes: int = 0
    seconds: float = 0.0
    counters: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> str:
        """The outcome as text."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "Outcome":
        """The outcome that `to_json` wrote."""
        return Outcome(**json.loads(text))


class Bench:
    """One worker and its storage: makes the worker when the first item comes, and works items one after the other."""

    def __init__(self, worker_class: Callable[..., Worker], worker_args: Mapping[str, Any], storage: Storage) -> None:
        self._make_worker = lambda: worker_class(**worker_args)
        self._storage = storage
        self._worker: Worker | None = None
        self.broken = False
        """Whether this process can work no further item: its GPU context is gone, and only a new process gets one."""

    def work(self, item: Item, listener: Listener = lambda heard: None) -> Outcome:
        """Works the item and writes what it made. Every error becomes an outcome, so that the others go on.

        `listener` hears, while the worker is at it, how far it is.
        """
        start, retries = time.monotonic(), self._storage.num_retries
        try:
            worker = self._ready_worker()
        except Exception as error:
            if is_bad_input(error):
                return Outcome(key=item.key, state="refused", reason=_reason(error), heals=False)
            logger.exception("The worker could not be made")
            return Outcome(key=item.key, state="refused", reason=f"the worker could not be made: {_reason(error)}")
        try:
            output = self._process(worker, item, listener)
            size = self._write(item, output)
        except Exception as error:
            return self._failed(item, error)
        counters = {name: float(count) for name, count in output.counters.items()}
        if self._storage.num_retries > retries:
            counters["storage retries"] = self._storage.num_retries - retries
        return Outcome(key=item.key, state="done", bytes=size, seconds=time.monotonic() - start, counters=counters)

    def _ready_worker(self) -> Worker:
        if self._worker is None:
            self._worker = self._make_worker()
        return self._worker

    def _process(self, worker: Worker, item: Item, listener: Listener) -> Output:
        """Tries again what may have been an accident. Our own errors are none: they say what is wrong."""
        for tried in range(1, MAX_TRIES + 1):
            try:
                with telling(listener):
                    return worker.process(item, self._storage)
            except Exception as error:
                if tried == MAX_TRIES or isinstance(error, MamiError) or _device_is_lost(error):
                    raise
                logger.warning("%s %s failed, trying again: %s", item.stage, item.name, _reason(error))
                time.sleep(_PAUSE_S * 2 ** (tried - 1))
        raise AssertionError("the last try returns or raises")

    def _write(self, item: Item, output: Output) -> int:
        """One write an object, the item's own last: once that is there, all are. Returns the number of bytes."""
        objects = {item.key: output.objects} if isinstance(output.objects, bytes) else dict(output.objects)
        assert item.key in objects, f"the worker of {item.stage} made no {item.key}"
        own = objects.pop(item.key)
        for key, data in objects.items():
            self._storage.write(key, data)
        self._storage.write(item.key, own)
        return len(own) + sum(map(len, objects.values()))

    def _failed(self, item: Item, error: Exception) -> Outcome:
        self.broken = _device_is_lost(error)
        state = "refused" if isinstance(error, _NO_BETTER_FOR_OTHERS) else "failed"
        if state == "failed":
            logger.warning("%s %s failed: %s", item.stage, item.name, _reason(error))
            if not isinstance(error, StorageError) or isinstance(error, MissingObjectError):
                record_failure(self._storage, item, _reason(error), "".join(traceback.format_exception(error)))
        return Outcome(key=item.key, state=state, reason=_reason(error), heals=not is_bad_input(error))


def record_failure(storage: Storage, item: Item, reason: str, details: str = "") -> None:
    """Writes down why an item failed; the record goes away when a later run does the item."""
    record = {"stage": item.stage, "item": item.name, "key": item.key, "reason": reason, "details": redact(details)}
    try:
        storage.write(item.error_key, json.dumps(record, indent=1).encode())
    except StorageError as error:  # the outcome says it too
        logger.warning("The reason for a failure could not be kept: %s", error)


def _reason(error: Exception) -> str:
    return redact(str(error) if isinstance(error, MamiError) else one_line(error))


def _device_is_lost(error: Exception) -> bool:
    """After most CUDA errors every later call in the same process fails too. Running out of memory is not one."""
    return "CUDA error" in str(error)
