"""Decoding on the CPUs of any machine, for a worker whose own do not keep up with its GPU.

The worker sends out Ray tasks that read and decode some images each, and takes their pixels in order, through Ray's
object store. A task claims a CPU and no GPU: it runs wherever a CPU is free, and Ray leans to nodes without a GPU. How
many are under way or waiting to be taken is bounded; that is the backpressure. The pixels are those that the worker
would have made, bit for bit.
"""

import functools
import logging
import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from jobs.engine.runtime import set_up_logging
from jobs.storage import RetryConfig, Storage, storage_for
from mami_core import contracts
from mami_core.errors import ConfigError, ImageError, IncompleteRunError
from mami_core.images import Decoded, Files, InThreads
from mami_core.images.ahead import ahead, threads
from mami_core.sizes import Size

logger = logging.getLogger(__name__)

DEADLY = "decoding it ends the process: out of memory, or a crash in a library"
"""The reason with which an image is dropped that kills whatever decodes it."""

_FEWEST_IMAGES, _MOST_IMAGES = 16, 64
"""Images a task: tenths of a second of work, some megabytes of pixels."""
_DEATHS = 2
"""So many processes may die over a task before it is given up."""
_PATIENCE_S = 60.0
"""How long a task may take before we take it that no CPU is free for it."""
_LONGEST_S = 900.0
"""How long it may take where it needs no free CPU: longer than storage is asked again."""


@dataclass(frozen=True, slots=True)
class OnCpus:
    """A `mami_core.images.Decoder`: decodes in Ray tasks.

    Where no CPU becomes free, the rest of an item is decoded beside its worker without a claim: slower, but never
    waiting for CPUs that the workers themselves hold. An image that ends the process that decodes it is found, by
    decoding its neighbours each alone, and dropped.
    """

    num_tasks: int
    """Tasks at once for each worker. As many again may be decoded and not yet taken."""
    num_cpus: float = 1.0
    """CPUs that a task claims; 0 on a single machine, where there are no others to be had."""

    def __post_init__(self) -> None:
        if self.num_tasks < 1 or self.num_cpus < 0:
            raise ConfigError(f"Decoding needs at least 1 task at once and no less than 0 CPUs, not {self}.")

    def __call__(
        self, images: pa.Table, files: Files, *, sizes: Sequence[int | Size], crop: float, batch_size: int
    ) -> Generator[Decoded, None, None]:
        """As `Decoder` says."""
        tasks = _Tasks(files, tuple(sizes), crop, self.num_cpus)
        wanted = math.ceil(images.num_rows / (2 * self.num_tasks))
        pieces = images.to_batches(max_chunksize=min(max(wanted, _FEWEST_IMAGES), _MOST_IMAGES))
        # The threads only wait for their task, and copy its pixels out of the object store.
        with threads(self.num_tasks, name="decode") as pool:
            for found in ahead(pool, tasks.decode, pieces, weight=lambda _: 1, limit=2 * self.num_tasks):
                yield from found


class _Tasks:
    """What the pieces of one item have in common."""

    def __init__(self, files: Files, sizes: tuple[int | Size, ...], crop: float, num_cpus: float) -> None:
        self._files, self._sizes, self._crop, self._num_cpus = files, sizes, crop, num_cpus

    def decode(self, images: pa.RecordBatch) -> list[Decoded]:
        """The images of a piece; each alone where all together ended their process."""
        from ray.exceptions import WorkerCrashedError

        try:
            return self._together(images)
        except WorkerCrashedError:
            names = images["key"].to_pylist()
        if len(names) == 1:
            return [(images["image"][0].as_py(), ImageError(DEADLY))]
        logger.warning("Decoding %s … %s ended its process; trying each image alone", names[0], names[-1])
        return [found for row in range(len(names)) for found in self.decode(images.slice(row, 1))]

    def _together(self, images: pa.RecordBatch) -> list[Decoded]:
        made = self._made(images.serialize().to_pybytes())
        if isinstance(self._files, Storage):
            self._files.add_retries(made.num_retries)
        # Copied: the object store gets its memory back, and tensors want memory that may be written to.
        pixels = [torch.from_numpy(np.array(array)).permute(0, 3, 1, 2) for array in made.pixels]
        return [
            (image, ImageError(made.wrong[row]) if row in made.wrong else [squares[row] for squares in pixels])
            for row, image in enumerate(images["image"].to_pylist())
        ]

    def _made(self, rows: bytes) -> "_Made":
        if self._num_cpus:
            made = self._result(rows, self._num_cpus, _PATIENCE_S)
            if made is not None:
                return made
            if self._num_cpus:
                logger.warning("No CPU became free to decode in %.0f s; decoding beside the worker", _PATIENCE_S)
                self._num_cpus = 0.0
        made = self._result(rows, 0.0, _LONGEST_S)
        if made is None:
            raise IncompleteRunError(f"Some images could not be read and decoded within {_LONGEST_S:.0f} s.")
        return made

    def _result(self, rows: bytes, num_cpus: float, patience_s: float) -> "_Made | None":
        """What the task gives; None where it has not in this time."""
        import ray

        reference = _task(num_cpus).remote(rows, self._files, self._sizes, self._crop)
        try:
            return ray.get(reference, timeout=patience_s)
        except ray.exceptions.GetTimeoutError:
            ray.cancel(reference)
            return None
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None


def _task(num_cpus: float) -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return _remote().options(
        name="decode images",
        num_cpus=num_cpus,
        max_retries=_DEATHS,
        scheduling_strategy="DEFAULT" if num_cpus else here,
    )


@functools.cache
def _remote() -> Any:
    import ray

    return ray.remote(_decode_here)


@dataclass(frozen=True, slots=True)
class _Made:
    """What a task gives: pixels as one array a size, since Ray carries few large arrays faster than many small ones."""

    pixels: list[np.ndarray]
    """images × height × width × 3 each."""
    wrong: dict[int, str]
    """What is wrong with an image, by its row; its pixels are zeros."""
    num_retries: int
    """How often storage had to be asked again."""


def _decode_here(rows: bytes, files: Files, sizes: tuple[int | Size, ...], crop: float) -> _Made:
    """Runs in the task's process."""
    set_up_logging()
    if isinstance(files, Storage):
        files = _storage(files.url, files.retry)
    before = files.num_retries if isinstance(files, Storage) else 0
    images = pa.Table.from_batches([pa.ipc.read_record_batch(pa.py_buffer(rows), contracts.IMAGES)])
    shapes = [(images.num_rows, size.height, size.width, 3) for size in map(Size.of, sizes)]
    made = _Made([np.zeros(shape, np.uint8) for shape in shapes], {}, 0)
    decoded = InThreads(1)(images, files, sizes=sizes, crop=crop, batch_size=images.num_rows)
    for row, (_, squares) in enumerate(decoded):
        if isinstance(squares, ImageError):
            made.wrong[row] = str(squares)
            continue
        for array, square in zip(made.pixels, squares, strict=True):
            array[row] = square.permute(1, 2, 0).numpy()
    retries = files.num_retries - before if isinstance(files, Storage) else 0
    return _Made(made.pixels, made.wrong, retries)


@functools.lru_cache(maxsize=4)
def _storage(url: str, retry: RetryConfig) -> Storage:
    """One for all tasks of a process: connections take longer than small images."""
    return storage_for(url, retry=retry)
