"""A stage of small tables, in which whatever is wanted goes wrong; shared by the tests of stages, pools and drivers."""

import hashlib
import io
import os
import signal
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.engine.items import Item, Output, part_name
from jobs.storage import RetryConfig, Storage
from mami_core.errors import ConfigError, ImageError, StorageRefusedError

QUICK = RetryConfig(patience_s=20, first_pause_s=0.001, longest_pause_s=0.01)

cluster = [
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("ray"),
    pytest.mark.cluster,
    pytest.mark.usefixtures("local_ray"),
]


def on_ray(test):  # noqa: ANN001, ANN201
    for mark in cluster:
        test = mark(test)
    return test


def items(count: int, **payloads: Any) -> list[Item]:
    """A stage of `count` items; payloads["_3"] is that of item 3."""
    return [
        Item("tables", n, count, f"tables/{part_name(n, count)}.parquet", payloads.get(f"_{n}", {}))
        for n in range(count)
    ]


def table(item: Item) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"unit": list(range(10 * item.index, 10 * item.index + 10))}), buffer)
    return buffer.getvalue()


def snapshot(storage: Storage) -> dict[str, str]:
    return {info.path: hashlib.sha256(storage.read(info.path)).hexdigest() for info in storage.find()}


ERRORS = {"image": ImageError, "refused": StorageRefusedError, "memory": MemoryError, "config": ConfigError}


class Tables:
    """Makes a table of ten rows an item; what goes wrong on the way is in the item's payload.

    {"kill": n, "when": "before" or "after" the write}: the process dies the first n times. {"raise": n}: the first n
    times. {"error": kind}: raises it each time.
    """

    def __init__(self, scratch: str = "") -> None:
        self.scratch = Path(scratch)

    def times(self, what: str, item: Item) -> int:
        """How often this was asked before, in all processes."""
        file = self.scratch / f"{what}-{item.index}"
        with file.open("a") as log:
            log.write("x")
        return file.stat().st_size - 1

    def process(self, item: Item, storage: Storage) -> Output:
        data = table(item)
        if item.payload.get("kill", 0) > 0 and self.times("killed", item) < item.payload["kill"]:
            if item.payload["when"] == "after":
                storage.write(item.key, data)
            os.kill(os.getpid(), signal.SIGKILL)
        if item.payload.get("raise", 0) > 0 and self.times("raised", item) < item.payload["raise"]:
            raise RuntimeError("made by the test")
        if error := item.payload.get("error"):
            self.times("raised", item)
            raise ERRORS[error]("made by the test")
        time.sleep(item.payload.get("sleep", 0))
        return Output(data, {"rows": 10})


def wait_for_objects(storage: Storage, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(storage.find()) < count:
        assert time.monotonic() < deadline, f"{len(storage.find())} objects"
        time.sleep(0.05)
