"""Files on a local disk, or on one that is mounted like a local disk. A file appears whole or not at all."""

import errno
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from jobs.storage.retries import Retries, one_line
from mami_core import local
from mami_core.errors import MissingObjectError, ObjectExistsError, StorageRefusedError

if TYPE_CHECKING:
    from mami_core.images import FileInfo

TEMPORARY = ".mami-part"
"""How the names of unfinished files end. They also start with a dot, so that readers of the folder pass over them."""

_REFUSED = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again, it goes on from here",
    errno.EDQUOT: "the disk quota is used up; free some space and run the same command again, it goes on from here",
    errno.EACCES: "permission denied; make it accessible to this user, or choose another place",
    errno.EPERM: "operation not permitted; make it accessible to this user, or choose another place",
    errno.EROFS: "the file system is read-only; choose another place",
    errno.ENOTDIR: "a file stands where a folder is needed; choose another place",
    errno.EISDIR: "a folder stands where a file is needed; choose another place",
    errno.ENAMETOOLONG: "the name is too long for this file system; choose a shorter path",
    errno.ELOOP: "symbolic links lead in a circle",
    errno.EINVAL: "the file system does not accept this name or operation",
    errno.EFBIG: "the file is too large for this file system",
}
"""What no second try heals. From anything else (EIO, ESTALE, EBUSY …) a network file system may recover."""

_NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}


class Disk:
    """Reads and writes whole files; paths are absolute."""

    def __init__(self, retries: Retries) -> None:
        self._retries = retries

    def find(self, path: str) -> "list[FileInfo]":
        """Every file at or below the path; unfinished files are passed over."""
        found = self._retries.run("listing", path, lambda: _find(path), _judge)
        return sorted(found, key=lambda info: info.path)

    def read(self, path: str, start: int = 0, size: int | None = None) -> bytes:
        """`size` bytes from byte `start` on; fewer only where the file ends."""
        return self._retries.run("reading", path, lambda: local.read(path, start, size), _judge)

    def open(self, path: str) -> BinaryIO:
        """The file, open for reading."""
        return self._retries.run("opening", path, lambda: Path(path).open("rb"), _judge)

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""
        return self._retries.run("looking up", path, lambda: Path(path).is_file(), _judge)

    def write(self, path: str, data: bytes) -> None:
        """Puts the file in place, whole, over any file that stands there."""
        self._retries.run("writing", path, lambda: _publish(path, data, Path.replace), _judge)

    def create(self, path: str, data: bytes) -> None:
        """Puts the file in place unless one stands there.

        Raises:
            ObjectExistsError: one stands there already.
        """
        self._retries.run("creating", path, lambda: _publish(path, data, _rename_to_new), _judge)

    def delete(self, path: str) -> None:
        """Takes the file away, if there is one."""
        self._retries.run("deleting", path, lambda: Path(path).unlink(missing_ok=True), _judge)

    def tidy(self, path: str) -> None:
        """Takes away folders without a file, at and below the path."""
        self._retries.run("tidying", path, lambda: _remove_empty(Path(path)), _judge)


def _remove_empty(folder: Path) -> None:
    if not folder.is_dir() or folder.is_symlink():
        return
    for below in list(folder.iterdir()):
        _remove_empty(below)
    with suppress(OSError):  # it holds something
        folder.rmdir()


def _judge(path: str, error: Exception) -> Exception | None:
    if not isinstance(error, OSError):
        return error
    if error.errno == errno.ENOENT:
        return MissingObjectError(f"{path}: no such file.")
    if error.errno == errno.EEXIST:
        return ObjectExistsError(f"{path}: exists already.")
    if error.errno in _REFUSED:
        return StorageRefusedError(f"{path}: {_REFUSED[error.errno]} ({one_line(error)}).")
    return None


def _find(path: str) -> "list[FileInfo]":
    place = Path(path)
    if place.is_dir():
        return [_info(found) for found in _walk(path, ())]
    return [_info(path)] if place.exists() or place.is_symlink() else []


def _walk(folder: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
    """The files below a folder, through links, but not round a circle of them: what `LocalFiles` of mami_core finds."""
    status = Path(folder).stat()
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _walk(entry.path, (*above, identity))
            elif not _is_temporary(entry.name):
                yield entry.path


def _info(path: str) -> "FileInfo":
    from mami_core.images import FileInfo  # imports torch, which a worker may do without

    try:
        status = os.stat(path)  # noqa: PTH116  (a million files: no Path object for each)
    except FileNotFoundError:  # a link to nothing: listed, so that whoever reads it learns of it
        return FileInfo(path, 0, "missing")
    return FileInfo(path, status.st_size, str(status.st_mtime_ns))


def _is_temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith(TEMPORARY)


def _publish(path: str, data: bytes, rename: Callable[[Path, Path], object]) -> None:
    """Writes beside the path and renames: the bytes are on the disk before the name is."""
    final = Path(path)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(final.parent)) from error
    temporary = final.parent / f".{secrets.token_hex(8)}{TEMPORARY}"
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        rename(temporary, final)
        _flush_folder(final.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _rename_to_new(temporary: Path, final: Path) -> None:
    """Gives the file its name only if the name is free: a hard link does that in one step, a rename does not."""
    try:
        final.hardlink_to(temporary)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        # A file system without hard links: two writers in the same instant could both believe that they won. Both
        # then wrote a complete file, and the loser's content shows when it is read back.
        if final.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(final)) from None
        temporary.replace(final)


def _flush_folder(folder: Path) -> None:
    """Makes the new name itself survive a power cut, where the file system can do that."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
