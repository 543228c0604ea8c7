"""A folder, a list, Parquet or tars → the images table; what identifies such a source, and what of it is left out.

Which it is follows from the names of the files. Hidden files (.name) are passed over, as are files of other kinds, and
`ImageSource.notes` says how many; a source with images of two kinds is refused, because either could be meant.
"""

import fnmatch
import hashlib
import os
import posixpath
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa

from mami_core.contracts import IMAGES
from mami_core.errors import ImageSourceError
from mami_core.images import parquet, tar
from mami_core.images.files import FileInfo, Files
from mami_core.images.passed_over import PassedOver, is_hidden, same_names

SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
SUFFIXES |= {".ppm", ".pgm", ".pbm", ".pnm"}

Listing = TypeVar("Listing")

_PATTERN = re.compile(r"[*?{[]")
_NUM_LISTERS = 8
_MAX_NAMES = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSource:
    """What is at a place that was named as the source of images."""

    images: pa.Table
    """`contracts.IMAGES`, in an order that depends on names alone."""
    fingerprint: str
    """SHA-256 over names, sizes and versions of the source's files: it changes when an image does. Of a `.txt` list it
    covers the lines, and does not look at the files behind them."""
    names: str
    """The same over names and sizes alone: what a copy has in common with its original."""
    notes: tuple[str, ...]
    """What people should know: how much was passed over, by kind, and what may not be meant as an image."""


@dataclass(frozen=True, slots=True)
class _Found:
    kind: str
    """"images", "list", "Parquet" or "tar"."""
    base: str
    """The folder that names are given below."""
    containers: list[FileInfo]
    passed_over: PassedOver

    def name(self, info: FileInfo) -> str:
        return info.path.removeprefix(f"{self.base.rstrip('/')}/")


def open_source(source: str, files: Files, *, image_column: str | None = None) -> ImageSource:
    """Every image of the source, what identifies them, and what was left out. It costs one listing.

    The source is a path or URL of

    - a folder with images, at any depth; the key is the path below it;
    - a `.txt` file with a path or URL a line, relative to the list's own folder; the key is the line;
    - a Parquet file or a folder of them, the bytes in the column `image` (bytes, or a struct with `bytes`) or `bytes`,
      or in `image_column`; the key is the column `key`, or `image.path`, or `path`, or else "file#row";
    - a WebDataset tar or a folder of them, not compressed; the key is the member's name, after the tar's own
      name where there are several;

    or a pattern for several files: `*` and `?` (which match `/` too), `{a,b}` and `{000..146}`.

    Raises:
        ImageSourceError: there are no images, or the source cannot be understood.
    """
    found = _find(source, files)
    if image_column and found.kind != "Parquet":
        raise ImageSourceError(f"{source}: only Parquet has columns, and this holds {found.kind}: name none.")
    list_kind = {"images": _list_folder, "list": _list_lines, "Parquet": _list_parquet, "tar": _list_tars}[found.kind]
    tables = list(list_kind(found, files, image_column))
    images = pa.concat_tables(tables) if tables else IMAGES.empty_table()
    if not images.num_rows:
        raise ImageSourceError(f"{source}: found {found.kind} files, but no image in them. {_WANTED}")
    numbers = pa.array(np.arange(images.num_rows))
    images = images.set_column(0, IMAGES.field("image"), numbers).combine_chunks()
    column = f"column {image_column}\n" if image_column else ""
    return ImageSource(
        images=images,
        fingerprint=_fingerprint(found, files, column, versions=True),
        names=_fingerprint(found, files, column, versions=False),
        notes=(*found.passed_over.notes(), *same_names(images["key"], found.kind)),
    )


def list_images(source: str, files: Files, *, image_column: str | None = None) -> pa.Table:
    """Every image of the source as `contracts.IMAGES`: see `open_source`."""
    return open_source(source, files, image_column=image_column).images


def _fingerprint(found: _Found, files: Files, column: str, *, versions: bool) -> str:
    digest = hashlib.sha256(f"images 1 {found.kind}\n{column}".encode())
    for info in found.containers:
        of_list = found.kind == "list"
        version = hashlib.sha256(files.read(info.path)).hexdigest() if of_list else info.version if versions else ""
        name = found.name(info).encode(errors="surrogateescape")
        digest.update(b"%d %s %d %s\n" % (len(name), name, info.size, version.encode()))
    return digest.hexdigest()


# --- finding the files ---------------------------------------------------------------------------------------------

_WANTED = (
    "Expected a folder with JPEG, PNG, WebP, BMP, GIF, TIFF or PPM files, a .txt file with a path a line, "
    "Parquet files, or tar files."
)


def _find(source: str, files: Files) -> _Found:
    place = _absolute(source)
    found = files.find(place)
    base = posixpath.dirname(place) if [info.path for info in found] == [place] else place
    if not found and (pattern := _PATTERN.search(place)):
        base = posixpath.dirname(place[: pattern.start()] + "x") or "/"
        found = _matching(place, files.find(base), source)
    kinds: dict[str, list[FileInfo]] = {}
    passed_over = PassedOver()
    for info in found:
        if kind := _kind(info.path, base, alone=len(found) == 1 and base != place):
            kinds.setdefault(kind, []).append(info)
        else:
            passed_over.add_file(_below(info.path, base))
    if len(kinds) == 1:
        ((kind, containers),) = kinds.items()
        return _Found(kind, base, containers, passed_over)
    raise ImageSourceError(" ".join([f"{source}: {_complaint(kinds, len(found), place)}", *passed_over.notes()]))


def _complaint(kinds: dict[str, list[FileInfo]], num_found: int, place: str) -> str:
    if kinds:
        counts = " and ".join(f"{kind} files ({len(infos)})" for kind, infos in sorted(kinds.items()))
        return f"holds {counts}, and either could be meant. Say which with a pattern, such as '.../*.tar'."
    if num_found:
        return f"no image among its files ({num_found}). {_WANTED}"
    return f"{'an empty folder' if Path(place).is_dir() else 'no such file or folder'}. {_WANTED}"


def _absolute(source: str) -> str:
    source = source.removeprefix("file://")
    return source.rstrip("/") if "://" in source else os.path.abspath(source)  # noqa: PTH100  (URLs are no Paths)


def _kind(path: str, base: str, *, alone: bool) -> str | None:
    """What a file holds, from its name. A .txt file is a list only where it is the whole source."""
    if is_hidden(_below(path, base)):
        return None
    suffix = posixpath.splitext(path)[1].lower()
    if suffix in SUFFIXES:
        return "images"
    return {".tar": "tar", ".parquet": "Parquet", ".txt": "list" if alone else None}.get(suffix)


def _below(path: str, base: str) -> str:
    return path.removeprefix(f"{base.rstrip('/')}/")


def _matching(pattern: str, found: list[FileInfo], source: str) -> list[FileInfo]:
    """The files that a pattern names, sorted by path. A name that braces spell out must be there."""
    by_path = {info.path: info for info in found}
    chosen: dict[str, FileInfo] = {}
    for name in _spelled_out(pattern, source):
        paths = [name] if name in by_path else fnmatch.filter(by_path, name)
        if not paths:
            raise ImageSourceError(f"{source}: there is no {name}. {_WANTED}")
        chosen.update((path, by_path[path]) for path in paths)
    return [chosen[path] for path in sorted(chosen)]


def _spelled_out(pattern: str, source: str) -> list[str]:
    """{a,b} and {000..146} written out, from the left."""
    names = [""]
    for part in re.split(r"(\{[^{}]*\})", pattern):
        choices = list(_choices(part, source))
        if len(names) * len(choices) > _MAX_NAMES:
            raise ImageSourceError(f"{source}: stands for more than {_MAX_NAMES} names. Use * instead.")
        names = [name + choice for name in names for choice in choices]
    return names


def _choices(part: str, source: str) -> Iterator[str]:
    if numbers := re.fullmatch(r"\{(\d+)\.\.(\d+)\}", part):
        first, last = int(numbers[1]), int(numbers[2])
        if not 0 <= last - first < _MAX_NAMES:
            raise ImageSourceError(f"{source}: expected {{smaller..larger}}, at most {_MAX_NAMES} names, got {part}")
        yield from (f"{number:0{len(numbers[1])}d}" for number in range(first, last + 1))
    else:
        yield from part[1:-1].split(",") if part.startswith("{") and part.endswith("}") else [part]


# --- files → rows --------------------------------------------------------------------------------------------------


def _list_folder(found: _Found, files: Files, column: str | None) -> Iterator[pa.Table]:
    infos = found.containers
    sizes = np.array([info.size for info in infos], dtype=np.int64)
    yield _rows([found.name(info) for info in infos], [info.path for info in infos], size=sizes)


def _list_lines(found: _Found, files: Files, column: str | None) -> Iterator[pa.Table]:
    (info,) = found.containers
    try:
        lines = files.read(info.path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as problem:
        raise ImageSourceError(f"{info.path}: expected UTF-8 text with a path a line: {problem}") from problem
    keys = [line.strip() for line in lines if line.strip()]
    here = posixpath.dirname(info.path)
    yield _rows(keys, [_behind(key, here, info.path) for key in keys])


def _behind(line: str, folder: str, where: str) -> str:
    """What a line of a list means: a path or URL of its own, or a path from the list's folder."""
    scheme, is_url, _ = line.partition("://")
    if is_url and scheme not in ("s3", "file"):
        raise ImageSourceError(
            f"{where}: expected a path or an s3:// URL a line, got {line[:200]!r}. Download what is behind {scheme}:// "
            "URLs first, and list the files."
        )
    path = line.removeprefix("file://") if is_url else posixpath.join(folder, line)
    if not path.startswith("s3://"):
        return path
    # An object store takes names as they are; a disk finds its own way up, through links.
    bucket, _, key = path.removeprefix("s3://").partition("/")
    key = posixpath.normpath(key)
    if key == ".." or key.startswith("../"):
        raise ImageSourceError(f"{where}: {line[:200]!r} leads out of its bucket {bucket}. Write such a URL whole.")
    return f"s3://{bucket}/{key}"


def _list_parquet(found: _Found, files: Files, column: str | None) -> Iterator[pa.Table]:
    def list_one(info: FileInfo) -> parquet.Rows:
        return parquet.list_rows(info, files, name=found.name(info), column=column)

    for info, rows in _each(found, list_one):
        found.passed_over.add_columns(rows.other_columns)
        yield _rows(rows.keys, info.path, row=np.arange(len(rows.keys)), column=column)


def _list_tars(found: _Found, files: Files, column: str | None) -> Iterator[pa.Table]:
    prefix = len(found.containers) > 1
    for info, members in _each(found, lambda info: tar.list_members(info, files)):
        images = []
        for member in members:
            if _kind(member.name, "", alone=False) == "images":
                images.append(member)
            else:
                found.passed_over.add_file(member.name)
        keys = [f"{found.name(info)}/{member.name}" if prefix else member.name for member in images]
        offsets = np.array([member.offset for member in images], dtype=np.int64)
        yield _rows(keys, info.path, offset=offsets, size=np.array([m.size for m in images], dtype=np.int64))


def _each(found: _Found, list_one: Callable[[FileInfo], Listing]) -> Iterator[tuple[FileInfo, Listing]]:
    """What each container lists, several at a time, in their order."""
    with ThreadPoolExecutor(_NUM_LISTERS) as pool:
        yield from zip(found.containers, pool.map(list_one, found.containers), strict=True)


def _rows(
    keys: list[str] | pa.Array,
    paths: list[str] | str,
    *,
    offset: np.ndarray | None = None,
    size: np.ndarray | None = None,
    row: np.ndarray | None = None,
    column: str | None = None,
) -> pa.Table:
    """A part of the images table; the numbers are filled in once every part is there."""
    count = len(keys)
    numbers = [pa.nulls(count, pa.int64()) if each is None else pa.array(each) for each in (offset, size, row)]
    columns = pa.repeat(pa.scalar(column, pa.string()), count)
    try:
        key = keys if isinstance(keys, pa.Array) else pa.array(keys, pa.string())
        path = pa.array([paths] * count if isinstance(paths, str) else paths, pa.string())
    except UnicodeEncodeError as problem:
        raise ImageSourceError(f"a file's name is not UTF-8: {problem.object!a}. Rename it.") from problem
    return pa.Table.from_arrays([pa.array(np.zeros(count, np.int64)), key, path, *numbers, columns], schema=IMAGES)
