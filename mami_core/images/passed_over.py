"""What a source of images holds beside what is read of it, counted by kind: nothing is left out in silence."""

import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

_PICTURES = {".heic", ".heif", ".avif", ".jxl", ".jp2", ".j2k", ".svg", ".psd", ".exr", ".hdr", ".tga", ".ico"}
_PICTURES |= {".dng", ".cr2", ".cr3", ".nef", ".arw", ".raw", ".orf", ".rw2", ".eps", ".pcx", ".dcm", ".npy"}
_CONTAINERS = {".zip", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".rar", ".7z", ".lmdb", ".tfrecord", ".arrow", ".h5"}
_SHOWN = 12


class PassedOver:
    """Counts what is passed over while a source is listed."""

    def __init__(self) -> None:
        self._files: Counter[str] = Counter()
        self._columns: Counter[str] = Counter()

    def add_file(self, name: str) -> None:
        """One file, by its path below the source, that is not an image to us."""
        self._files["hidden" if is_hidden(name) else posixpath.splitext(name)[1].lower() or "without an ending"] += 1

    def add_columns(self, names: Iterable[str]) -> None:
        """The columns of one Parquet file that hold images too and were not asked for."""
        self._columns.update(names)

    def notes(self) -> Iterator[str]:
        """A sentence or two, or none."""
        if self._files:
            counts = [f"{count:,} {kind}" for kind, count in self._files.most_common(_SHOWN)]
            counts += [f"{len(self._files) - _SHOWN} more kinds"] if len(self._files) > _SHOWN else []
            yield f"Files passed over: {', '.join(counts)}."
        if pictures := sorted(_PICTURES & self._files.keys()):
            yield f"Pictures of the kinds {', '.join(pictures)} cannot be read: convert them to have them counted in."
        if packed := sorted(_CONTAINERS & self._files.keys()):
            yield f"What is inside {', '.join(packed)} was not looked at: unpack it if there are images in it."
        if self._columns:
            names = ", ".join(f"{name!r}" for name in self._columns)
            yield f"Columns passed over that could hold images: {names}. Name one as the image column to have it read."


def is_hidden(name: str) -> bool:
    """Whether a path below the source has a part with a dot in front."""
    return any(part.startswith(".") for part in name.split("/"))


def same_names(keys: pa.ChunkedArray, kind: str) -> Iterator[str]:
    """A sentence if images share their name but for its ending, as masks do that lie beside their photographs.

    In a tar the ending begins at the first dot, as WebDataset has it. A list says which files are meant.
    """
    if kind not in ("images", "tar"):
        return
    ending = r"\.[^/]*$" if kind == "tar" else r"\.[^./]*$"
    stems = pc.replace_substring_regex(keys, ending, "")
    counts = pc.value_counts(stems)
    shared = counts.filter(pc.greater(counts.field("counts"), 1))
    if not len(shared):
        return
    examples = keys.filter(pc.equal(stems, shared.field("values")[0])).to_pylist()
    remedy = "pack the tar without them" if kind == "tar" else "choose with a pattern such as '.../*.jpg'"
    yield (
        f"{pc.sum(shared.field('counts')).as_py():,} images share their name with another but for its ending, such as "
        f"{' and '.join(examples[:3])}. All are read as images; if some of them are masks, {remedy}."
    )
