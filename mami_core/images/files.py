"""What reading images needs of a place that holds files, and the local disk as such a place."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, runtime_checkable

from mami_core import local
from mami_core.errors import MissingObjectError, StorageError


@dataclass(frozen=True, slots=True)
class FileInfo:
    """One file, as a listing shows it."""

    path: str
    size: int
    """Bytes."""
    version: str
    """Changes when the content does: an ETag, or the time of the last write."""


@runtime_checkable
class Files(Protocol):
    """A local disk or an object store, read only.

    Every method raises `FileNotFoundError` for a file that is not there and `StorageError` for storage that fails;
    the first costs one image, the second ends the run.
    """

    def find(self, path: str) -> list[FileInfo]:
        """Every file at or below `path`, sorted by path; none is an empty list.

        The paths found begin with `path` as it was given, made absolute if it was a relative local one.
        """
        ...

    def read(self, path: str, start: int = 0, size: int | None = None) -> bytes:
        """The file's bytes from `start`, at most `size` of them: fewer where it ends earlier."""
        ...

    def open(self, path: str) -> BinaryIO:
        """The file for reading, seekable."""
        ...


@runtime_checkable
class CountsRetries(Protocol):
    """Files that know how often their storage had to be asked again."""

    @property
    def num_retries(self) -> int:
        """By this process, or for it."""
        ...

    def add_retries(self, count: int) -> None:
        """Count those of another process that read for this one."""
        ...


class LocalFiles:
    """The local disk."""

    def find(self, path: str) -> list[FileInfo]:
        """Every file at or below `path`, links followed, sorted by path."""
        root = os.path.abspath(path)  # noqa: PTH100  (Path.resolve would replace links by what they point to)
        with _named_errors(root):
            paths = _walk(root, ()) if Path(root).is_dir() else [root] if os.path.lexists(root) else []
            return sorted((_info(found) for found in paths), key=lambda info: info.path)

    def read(self, path: str, start: int = 0, size: int | None = None) -> bytes:
        """The file's bytes from `start`, at most `size` of them."""
        with _named_errors(path):
            return local.read(path, start, size)

    def open(self, path: str) -> BinaryIO:
        """The file for reading."""
        with _named_errors(path):
            return Path(path).open("rb")


def _walk(folder: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
    """The files below a folder, through links, but not round a circle of them."""
    status = os.stat(folder)  # noqa: PTH116
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _walk(entry.path, (*above, identity))
            else:
                yield entry.path


def _info(path: str) -> FileInfo:
    try:
        status = os.stat(path)  # noqa: PTH116  (a million files: no Path object for each)
    except FileNotFoundError:  # A link that points nowhere: listed, so that reading it says so.
        return FileInfo(path, 0, "missing")
    return FileInfo(path, status.st_size, str(status.st_mtime_ns))


@contextmanager
def _named_errors(path: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as problem:
        raise MissingObjectError(f"{path}: no such file") from problem
    except OSError as problem:
        raise StorageError(f"{path}: cannot be read: {problem.strerror or problem}") from problem
