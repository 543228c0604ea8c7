"""Where a job keeps things: a folder or an `s3://` prefix, with the same promises for both.

An object appears under its name whole or not at all, in one write. A failure that may heal is tried again for a bounded
time, logged and counted; one that will not heal is raised at once. Errors name the object.

Names of layers and subjects come from users and from networks: `safe_name` turns one into one path component, and
nothing is ever written outside the storage's own folder.
"""

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

from jobs.storage.disk import Disk
from jobs.storage.redaction import redact
from jobs.storage.retries import Retries, RetryConfig
from mami_core.errors import ConfigError, ObjectExistsError

if TYPE_CHECKING:
    from mami_core.images import FileInfo

__all__ = ["RetryConfig", "Storage", "absolute", "original_name", "redact", "safe_name", "storage_for"]

_UNSAFE = re.compile(rb"[^A-Za-z0-9._-]|^[._]")
_ESCAPE = re.compile(rb"~([0-9A-F]{2})")
_EMPTY = "~"
_LONGEST_NAME = 200


def safe_name(name: str) -> str:
    """One path component that stands for the name, and for no other; see `original_name`.

    Every byte but letters, digits, `.`, `_` and `-` becomes `~` and its hexadecimal number, as does a `.` or `_` in
    front: such files are hidden, or passed over by readers of Parquet folders. `~` rather than `%`, because readers
    of `s3://` URLs take `%2F` for `/`.

    Raises:
        ConfigError: the name is too long for a file system.
    """
    safe = _UNSAFE.sub(lambda found: b"~%02X" % found[0][0], name.encode("utf-8", "surrogatepass")).decode() or _EMPTY
    if len(safe) > _LONGEST_NAME:
        raise ConfigError(f"The name {name[:60]!r}… takes {len(safe)} bytes in a path; at most {_LONGEST_NAME} fit.")
    return safe


def original_name(safe: str) -> str:
    """The name that `safe_name` made into this path component."""
    if safe == _EMPTY:
        return ""
    return _ESCAPE.sub(lambda found: bytes([int(found[1], 16)]), safe.encode()).decode("utf-8", "surrogatepass")


class _Place(Protocol):
    """What a disk and an object store have in common. Paths are absolute."""

    def find(self, path: str) -> "list[FileInfo]": ...
    def read(self, path: str, start: int = 0, size: int | None = None) -> bytes: ...
    def open(self, path: str) -> BinaryIO: ...
    def exists(self, path: str) -> bool: ...
    def write(self, path: str, data: bytes) -> None: ...
    def create(self, path: str, data: bytes) -> None: ...
    def delete(self, path: str) -> None: ...
    def tidy(self, path: str) -> None: ...


class Storage:
    """A folder or an `s3://` prefix.

    Paths are names below it ("labels/a/part-00000-of-00001.parquet") or, for reading only, absolute: another folder or
    another `s3://` URL. Connections are made when they are first used, in the process that uses them; a storage can be
    sent to another process, which makes its own.
    """

    def __init__(self, url: str, *, retry: RetryConfig | None = None) -> None:
        self.url = absolute(url)
        self.retry = retry or RetryConfig()
        self._retries = Retries(self.retry)
        self._places: dict[tuple[int, bool], _Place] = {}

    def __reduce__(self) -> tuple:
        return _restored, (self.url, self.retry)

    def __repr__(self) -> str:
        return f"Storage({self.url!r})"

    @property
    def num_retries(self) -> int:
        """How many operations had to be tried again, by this process or for it."""
        return self._retries.count

    def add_retries(self, count: int) -> None:
        """Count those of another process that read on behalf of this one."""
        self._retries.count += count

    def locate(self, path: str) -> str:
        """The absolute path or URL of a name below this storage; an absolute one as it is."""
        if _is_absolute(path):
            return absolute(path)
        return f"{self.url.rstrip('/')}/{_checked(path)}" if path else self.url

    def find(self, path: str = "") -> "list[FileInfo]":
        """Every file at or below the path, sorted; none where there is nothing. Listed now, never from a cache.

        Names come back as they were asked for: below the storage for a name below it, absolute for an absolute one.
        """
        place = self._place(path)
        found = place.find(self.locate(path))
        if _is_absolute(path):
            return found
        cut = len(self.url.rstrip("/")) + 1
        return [replace(info, path=info.path[cut:]) for info in found]

    def read(self, path: str, start: int = 0, size: int | None = None) -> bytes:
        """`size` bytes from byte `start` on, or all of them; fewer than `size` only where the file ends.

        Raises:
            MissingObjectError: there is no such file.
        """
        return self._place(path).read(self.locate(path), start, size)

    def open(self, path: str) -> BinaryIO:
        """A seekable file, read only."""
        return self._place(path).open(self.locate(path))

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""
        return self._place(path).exists(self.locate(path))

    def write(self, path: str, data: bytes) -> None:
        """Puts the file in place, whole, over any that stands there."""
        self._place(path).write(self._own(path), data)

    def create(self, path: str, data: bytes) -> bool:
        """Puts the file in place if its name is free; whether this call did.

        False: the same bytes stood there already. That includes our own first attempt whose reply was lost.

        Raises:
            ObjectExistsError: other bytes stand there.
        """
        try:
            self._place(path).create(self._own(path), data)
        except ObjectExistsError:
            if self.read(path) != data:
                raise ObjectExistsError(f"{redact(self.locate(path))}: exists already, with other contents.") from None
            return False
        return True

    def delete(self, path: str) -> None:
        """Takes the file away, if there is one."""
        self._place(path).delete(self._own(path))

    def tidy(self) -> None:
        """Takes away folders without a file, the storage's own included; an object store has none."""
        self._place(self.url).tidy(self.url)

    def _own(self, path: str) -> str:
        """The path of something that we may change: a name below this storage and nothing else."""
        if not path or _is_absolute(path):
            raise ConfigError(f"{path!r}: only names below {self.url} can be written.")
        return self.locate(path)

    def _place(self, path: str) -> _Place:
        remote = self.locate(path).startswith("s3://")
        key = (os.getpid(), remote)  # connections do not survive a fork
        if key not in self._places:
            self._places[key] = self._connect(remote=remote)
        return self._places[key]

    def _connect(self, *, remote: bool) -> _Place:
        if not remote:
            return Disk(self._retries)
        from jobs.storage.object_store import ObjectStore  # a second to import, and not needed on a disk

        return ObjectStore(self._retries)


def storage_for(url: str, *, retry: RetryConfig | None = None) -> Storage:
    """The storage at a folder or an `s3://` URL.

    Raises:
        ConfigError: an address of another kind, or one that carries credentials.
    """
    return Storage(url, retry=retry)


def _is_absolute(path: str) -> bool:
    return path.startswith(("/", "s3://", "file://"))


def _restored(url: str, retry: RetryConfig) -> Storage:
    return Storage(url, retry=retry)


def absolute(url: str) -> str:
    """The absolute path of a folder or file, or s3://bucket/key; without a slash at its end.

    Raises:
        ConfigError: an address of another kind, or one that carries credentials.
    """
    if not url or "\0" in url:
        raise ConfigError(f"{url!r} is no place to keep anything: expected a folder or s3://bucket/prefix.")
    if url.startswith("s3://"):
        return _normalised_s3(url)
    if "://" in url and not url.startswith("file://"):
        raise ConfigError(f"{redact(url)}: expected a folder or s3://bucket/prefix; no other storage is supported.")
    return str(Path(url.removeprefix("file://")).absolute())


def _normalised_s3(url: str) -> str:
    bucket, _, key = url.removeprefix("s3://").partition("/")
    if "@" in bucket or ":" in bucket:
        raise ConfigError(f"{redact(url)}: credentials and ports do not belong in a URL; set them in the environment.")
    if not bucket:
        raise ConfigError(f"{url!r}: expected s3://bucket/prefix.")
    return f"s3://{bucket}/{key}".rstrip("/")


def _checked(path: str) -> str:
    """A relative path that stays where it belongs."""
    if any(part in ("", ".", "..") for part in path.split("/")) or "\0" in path:
        raise ConfigError(f"{path!r} is no name for a file: it would lead out of its folder, or nowhere.")
    return path
