"""What an annotating run is made of: its photographs, and what every worker needs to know."""

import hashlib
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jobs.engine.items import part_name
from jobs.labelling.specs import SubjectSpec
from jobs.storage import absolute, safe_name
from mami_core.errors import DescriptionsError
from mami_core.learning.dissected import Annotation, Demands, Photograph, in_two, read_photographs

logger = logging.getLogger(__name__)

_ANNOTATED = ("regions.jsonl", "classes.json")
"""What tells a folder of annotated photographs."""
_SHOWN = 10
"""Names of what is left out, in the log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotateSpec:
    """What every worker needs to know; small, since it is sent to each."""

    sources: tuple[str, ...]
    """As `all_photographs` takes them."""
    wordnet: str
    subjects: tuple[SubjectSpec, ...]
    layers: dict[str, dict[str, int]]
    """By subject: its layers and their numbers of units."""
    depths: dict[str, dict[str, float]]
    """By subject: how deep each layer lies, from 0 for the first of all its layers to 1 for the last."""
    locator: str | None
    detect: tuple[str, ...]
    """What detectors look for in every photograph."""
    k: int
    quantile: float
    held_out: float
    """Share of the photographs that no neuron may see; which follows from their names."""
    parts: int
    """On how many parts of the photographs each unit is looked at: all, then random halves."""
    num_descriptions: int
    concepts_per_item: float
    photographs_per_item: int
    num_photographs: int
    demands: Demands
    seed: int
    device: str = "cpu"

    def chunks(self) -> list[tuple[int, int]]:
        """First photograph and end of every chunk."""
        starts = range(0, self.num_photographs, self.photographs_per_item)
        return [(start, min(start + self.photographs_per_item, self.num_photographs)) for start in starts]

    def part(self, chunk: int) -> str:
        """A chunk's name."""
        return part_name(chunk, len(self.chunks()))

    def layer_name(self, subject: str, layer: str, draw: int) -> str:
        """The folder of a layer's neurons with one draw of exemplars."""
        return safe_name(f"{subject}.{layer}") + (f".{draw}" if draw else "")


def all_photographs(sources: Sequence[str], held_out: float) -> tuple[Photograph, ...]:
    """The photographs of all sources that neurons may see, in an order that depends on their names alone.

    Sources are as `read_photographs` takes them; `sources_of` makes them of what people give. A photograph that is
    annotated and is not there is left out: people often have a part of a data set. Of one that several sources speak
    of, all count, and its name is by the first of them in the alphabet, in whatever order they are given.

    Raises:
        DescriptionsError: a source cannot be read, or nothing of it is there.
    """
    found: dict[Path, Photograph] = {}
    for source in sorted(sources):
        there = [photograph for photograph in read_photographs(source) if photograph.path.is_file()]
        if not there:
            raise DescriptionsError(f"{source}: none of the photographs that it names is there.")
        for photograph in there:
            known = found.get(photograph.path)
            found[photograph.path] = photograph if known is None else known.with_more(photograph.annotations)
    kept = [photograph for photograph in found.values() if not is_held_out(photograph.name, held_out)]
    if not kept:
        raise DescriptionsError(f"All {len(found)} photographs are held out; give more, or a smaller --held-out.")
    return tuple(sorted(kept, key=lambda photograph: (photograph.name, str(photograph.path))))


def sources_of(given: Sequence[str]) -> tuple[str, ...]:
    """Absolute sources, since names and workers depend on the folder; a folder of annotated ones stands for these.

    What else lies in such a folder is left out, and the log says so.
    """
    there = [":".join(absolute(part) for part in in_two(source) if part) for source in given]
    return tuple(one for source in there for one in _each(source))


def _each(source: str) -> Sequence[str]:
    folder = Path(source)
    if _is_annotated(folder) or not folder.is_dir():
        return [source]
    inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    found = [path for path in inside if _is_annotated(path)]
    if found and (left := [path.name for path in inside if path.is_dir() and path not in found]):
        logger.warning(
            "%s: took the folders with %s; left out %s%s. Give a folder of its own --photographs to take it too.",
            source,
            " or ".join(_ANNOTATED),
            ", ".join(left[:_SHOWN]),
            f" and {len(left) - _SHOWN:,} more" if len(left) > _SHOWN else "",
        )
    return [str(path) for path in found] or [source]


def _is_annotated(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _ANNOTATED)


def digest_of(photographs: Iterable[Photograph]) -> str:
    """What tells photographs from others, with what is said of them; wherever they lie. Masks count by their size.

    Raises:
        DescriptionsError: a mask is not there.
    """
    digest = hashlib.sha256()
    for each in photographs:
        said = [_told(annotation, each.path) for annotation in each.annotations]
        digest.update(repr((each.name, each.path.stat().st_size, said)).encode())
    return digest.hexdigest()[:16]


def _told(annotation: Annotation, photograph: Path) -> object:
    if annotation.mask is None:
        return annotation
    file, value = annotation.mask
    try:
        size = file.stat().st_size
    except OSError as error:
        raise DescriptionsError(f"{file}: expected a mask for {photograph}: {error}") from error
    return replace(annotation, mask=None), os.path.relpath(file, photograph.parent), size, value


def is_held_out(name: str, share: float) -> bool:
    """Whether no neuron may see the photograph of this name, "SOURCE/FILE": the same on every machine."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest()) < share * 2**32
