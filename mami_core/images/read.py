"""The images table → the bytes of each image, in order, with few requests and bounded memory."""

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any, Protocol

import pyarrow as pa

from mami_core.errors import ImageError, ImageSourceError
from mami_core.images import parquet
from mami_core.images.ahead import ahead, threads
from mami_core.images.files import Files

MAX_BYTES = 256 << 20
"""A larger file is no image to us, and is not read."""

READ_AHEAD_BYTES = 64 << 20
"""What is read and not yet taken is at most this much, or one request if that is larger."""

_NUM_READERS = 16  # They wait for storage most of the time.
_FILES_TOGETHER = 8  # A small file on a disk is read faster than a task is handed to a thread; an object store is not.
_REQUEST_BYTES = 8 << 20  # Neighbours in a tar are read together up to this much,
_GAP_BYTES = 128 << 10  # across as much between them as is cheaper to throw away than another request.
_OVERHEAD_BYTES = 1 << 20  # What a request counts for beside its bytes, so that at most 64 wait.

Row = dict[str, Any]
Answer = tuple[int, bytes | ImageError]


def read_bytes(images: pa.Table, files: Files) -> Generator[Answer, None, None]:
    """Each image's number with its bytes, or with the `ImageError` that says why they cannot be had, in order.

    Neighbours in a tar come in one request, rows of Parquet by row group; requests run ahead in threads. In memory
    are at most `READ_AHEAD_BYTES`, or the largest request: one image, or the wanted images of one row group. (Images of
    a `.txt` list, whose sizes nobody knows beforehand, count as small.)

    Raises:
        StorageError: storage failed. An object that is merely missing costs only its images.
    """
    with threads(_NUM_READERS, name="read") as pool:
        requests = _requests(images, files)
        read = partial(_answer, files)
        for answers in ahead(pool, read, requests, weight=lambda asked: asked.weight, limit=READ_AHEAD_BYTES):
            yield from answers


def _requests(images: pa.Table, files: Files) -> Iterator["_Request"]:
    rows = (row for batch in images.to_batches(max_chunksize=1024) for row in batch.to_pylist())
    for (_, has_offset, has_row), together in groupby(rows, key=_container):
        if has_row:
            yield from _row_groups(together, files)
        elif has_offset:
            yield from map(_Range, _runs(together, _are_near))
        else:
            yield from map(_WholeFiles, _runs(together, _are_small))


def _container(row: Row) -> tuple[str | None, bool, bool]:
    """What neighbours must have in common to be read together: files of their own need nothing."""
    whole_file = row["offset"] is None and row["row"] is None
    return None if whole_file else row["path"], row["offset"] is not None, row["row"] is not None


def _runs(rows: Iterable[Row], belongs: Callable[[list[Row], Row], bool]) -> Iterator[list[Row]]:
    """The rows, in order, in runs: a row starts a new one where it does not belong to the run so far."""
    run: list[Row] = []
    for row in rows:
        if run and not belongs(run, row):
            yield run
            run = []
        run.append(row)
    yield run


def _are_near(run: list[Row], row: Row) -> bool:
    gap = row["offset"] - (run[-1]["offset"] + run[-1]["size"])
    return 0 <= gap <= _GAP_BYTES and row["offset"] + row["size"] - run[0]["offset"] <= _REQUEST_BYTES


def _are_small(run: list[Row], row: Row) -> bool:
    if "://" in row["path"]:
        return False
    return len(run) < _FILES_TOGETHER and sum(each["size"] or 0 for each in (*run, row)) <= _REQUEST_BYTES


def _row_groups(rows: Iterable[Row], files: Files) -> Iterator["_Request"]:
    """Rows of one Parquet file, those of a row group together."""
    rows = list(rows)
    try:
        footer = parquet.read_footer(rows[0]["path"], files, rows[0]["column"])
    except (FileNotFoundError, ImageSourceError) as problem:
        yield _Lost(rows, str(problem))
        return
    for group, together in groupby(rows, key=lambda row: footer.group_of(row["row"])):
        if group < 0:
            yield _Lost(list(together), f"{rows[0]['path']} has fewer rows than when it was listed")
        else:
            yield _RowGroup(list(together), footer, group)


def _answer(files: Files, request: "_Request") -> list[Answer]:
    try:
        found = request.read(files)
    except FileNotFoundError:
        found = [_missing(row["path"]) for row in request.rows]
    return [(row["image"], data) for row, data in zip(request.rows, found, strict=True)]


class _Request(Protocol):
    """Some images that are read together."""

    rows: list[Row]

    @property
    def weight(self) -> int:
        """Bytes of memory."""
        ...

    def read(self, files: Files) -> list[bytes | ImageError]: ...


@dataclass(slots=True)
class _WholeFiles:
    """Images that are files of their own. A list does not say how large they are."""

    rows: list[Row]

    @property
    def weight(self) -> int:
        return _OVERHEAD_BYTES + sum(row["size"] or 0 for row in self.rows)

    def read(self, files: Files) -> list[bytes | ImageError]:
        return [_whole(row["path"], row["size"], files) for row in self.rows]


def _whole(path: str, size: int | None, files: Files) -> bytes | ImageError:
    if size is not None and size > MAX_BYTES:
        return _too_large(size)
    try:
        data = files.read(path, 0, MAX_BYTES + 1) if size is None else files.read(path)
    except FileNotFoundError:
        return _missing(path)
    if len(data) > MAX_BYTES:
        return _too_large(len(data))
    return data if size is None or size == len(data) else _changed(size, len(data))


@dataclass(slots=True)
class _Range:
    """Neighbours in one tar."""

    rows: list[Row]

    @property
    def weight(self) -> int:
        return _OVERHEAD_BYTES + self._size

    @property
    def _size(self) -> int:
        return self.rows[-1]["offset"] + self.rows[-1]["size"] - self.rows[0]["offset"]

    def read(self, files: Files) -> list[bytes | ImageError]:
        if self._size > MAX_BYTES:  # Then it is one image: neighbours stay below `_REQUEST_BYTES`.
            return [_too_large(self._size)]
        start = self.rows[0]["offset"]
        data = files.read(self.rows[0]["path"], start, self._size)
        parts = [data[row["offset"] - start : row["offset"] - start + row["size"]] for row in self.rows]
        return [
            part if len(part) == row["size"] else _changed(row["size"], len(part))
            for part, row in zip(parts, self.rows, strict=True)
        ]


@dataclass(slots=True)
class _RowGroup:
    """Rows of one row group of a Parquet file."""

    rows: list[Row]
    footer: parquet.Footer
    group: int

    @property
    def weight(self) -> int:
        return _OVERHEAD_BYTES + self.footer.num_bytes(self.group)

    def read(self, files: Files) -> list[bytes | ImageError]:
        wanted = sorted({row["row"] for row in self.rows})
        found = parquet.read_rows(self.rows[0]["path"], files, self.footer, self.group, wanted)
        by_row = dict(zip(wanted, found, strict=True))
        return [by_row[row["row"]] for row in self.rows]


@dataclass(slots=True)
class _Lost:
    """Images of which it is known already that they cannot be read."""

    rows: list[Row]
    reason: str

    @property
    def weight(self) -> int:
        return _OVERHEAD_BYTES

    def read(self, files: Files) -> list[bytes | ImageError]:
        return [ImageError(self.reason) for _ in self.rows]


def _missing(path: str) -> ImageError:
    return ImageError(f"{path} is not there")


def _too_large(size: int) -> ImageError:
    return ImageError(f"{size} bytes are more than the {MAX_BYTES} allowed")


def _changed(expected: int, found: int) -> ImageError:
    return ImageError(f"{expected} bytes were listed and {found} read: it has changed or is cut off")
