"""The images table → files and what is seen of them, some at a time, ahead of a GPU that decodes them."""

import pickle
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial

import numpy as np
import pyarrow as pa
from torch import Tensor

from mami_core.errors import ImageError
from mami_core.images.ahead import ahead, runs, threads
from mami_core.images.files import Files
from mami_core.images.jpeg_view import gpu_view
from mami_core.images.read import Answer, read_bytes
from mami_core.images.readers import Read, readers, room

MOST_TOGETHER, _BYTES_TOGETHER = 256, 32 << 20
"""Files that a GPU's decoder is given at once, and their bytes, at most: a few large ones take as much memory."""
_MOST_READERS = 4
"""More do not read more from a disk."""
_FEWEST_IMAGES = 512
"""So few are read before a process has started."""
_UNKNOWN_BYTES = 1 << 20
"""What a file counts for whose size nobody knows beforehand."""


def read_ahead(
    images: pa.Table, files: Files, crop: float, *, limit: int, num_readers: int
) -> Generator[list[Read], None, None]:
    """All files, in the table's order, some at a time, about `limit` images ahead of their use (see `weight_of`).

    With readers, each has some more under way. Until they have started, and for few images or rows of Parquet, which
    are read by row group, threads of this process read.

    Raises:
        StorageError: storage failed.
    """
    many = len(images) >= _FEWEST_IMAGES and images["row"].null_count == len(images)
    several = readers(num_readers) if num_readers and many and _can_be_sent(files) else None
    with threads(max(2, num_readers), name="read") as pool:
        if several is None:
            with closing(read_bytes(images, files)) as answers:
                seen = partial(_seen, crop=crop)
                yield from ahead(pool, seen, _lists(answers), weight=weight_of, limit=limit)
            return

        def read(some: pa.Table) -> list[Read]:
            found = several.read(some, files, crop)
            return _seen(list(read_bytes(some, files)), crop) if found is None else found

        limit += num_readers * MOST_TOGETHER
        yield from ahead(pool, read, _pieces(images), weight=lambda some: _weight(_sizes(some)), limit=limit)


def num_readers_for(num_cpus: int) -> int:
    """One for four CPUs."""
    return min(_MOST_READERS, num_cpus // 4)


def weight_of(some: Sequence[Read | Answer]) -> int:
    """How many images these count for: large ones for several, so that what is read ahead does not fill the memory."""
    return _weight([_num_bytes(data) for _, data, *_ in some])


def _weight(sizes: Sequence[int]) -> int:
    return max(len(sizes), sum(sizes) * MOST_TOGETHER // _BYTES_TOGETHER)


def _num_bytes(data: bytes | Tensor | ImageError) -> int:
    return 0 if isinstance(data, ImageError) else len(data)


def _sizes(images: pa.Table) -> list[int]:
    return images["size"].fill_null(_UNKNOWN_BYTES).to_pylist()


def _can_be_sent(files: Files) -> bool:
    try:
        pickle.dumps(files)
    except Exception:  # whatever its parts raise: it is only about speed
        return False
    return True


def _pieces(images: pa.Table) -> Iterator[pa.Table]:
    """Rows of the table that are read together."""
    for run in runs(_sizes(images), most=_BYTES_TOGETHER):
        for first in range(run.start, run.stop, MOST_TOGETHER):
            yield images.slice(first, min(MOST_TOGETHER, run.stop - first))


def _lists(answers: Iterable[Answer]) -> Iterator[list[Answer]]:
    """Files that were read, by as many."""
    some: list[Answer] = []
    num_bytes = 0
    for image, data in answers:
        some.append((image, data))
        num_bytes += _num_bytes(data)
        if len(some) == MOST_TOGETHER or num_bytes >= _BYTES_TOGETHER:
            yield some
            some, num_bytes = [], 0
    if some:
        yield some


def _seen(answers: Sequence[Answer], crop: float) -> list[Read]:
    """With what is seen of each, the files in one piece of memory: from other memory the driver copies each alone."""
    sizes = [_num_bytes(data) for _, data in answers]
    read: list[Read] = []
    for (image, data), part in zip(answers, room(sum(sizes)).split(sizes), strict=True):
        if isinstance(data, ImageError):
            read.append((image, data, None))
        else:
            part.numpy()[:] = np.frombuffer(data, np.uint8)
            read.append((image, part, gpu_view(data, crop)))
    return read
