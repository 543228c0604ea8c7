"""What is inside a tar, from its headers alone."""

import tarfile
from dataclasses import dataclass

from mami_core.errors import ImageSourceError, StorageError
from mami_core.images.files import FileInfo, Files


@dataclass(frozen=True, slots=True)
class Member:
    """One file inside a tar: a range of the tar's bytes."""

    name: str
    offset: int
    size: int


def list_members(info: FileInfo, files: Files) -> list[Member]:
    """Every file inside the tar, in the tar's order.

    Raises:
        ImageSourceError: it is no tar, or compressed (then no range of it is an image), or cut off.
    """
    try:
        with files.open(info.path) as stream, tarfile.open(fileobj=stream, mode="r:", errors="replace") as archive:
            return [Member(_clean(item.name), item.offset_data, item.size) for item in archive if item.isreg()]
    except StorageError:
        raise
    except (tarfile.TarError, EOFError, OSError, ValueError) as problem:
        raise ImageSourceError(f"{info.path}: expected a whole, uncompressed tar file: {problem}") from problem


def _clean(name: str) -> str:
    return name.removeprefix("./")
