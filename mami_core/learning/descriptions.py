"""What people said of neurons, and the exemplars that they looked at.

`AnnotatedNeurons` is a table of neurons, their descriptions and the numbers of their exemplars' images; where pixels
and regions come from (a folder, or a drawing made on demand) is a `Pictures` behind it. Neurons share images, so each
distinct image has one number and is read, and later encoded, once.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from jaxtyping import Int64, UInt8

from mami_core import contracts
from mami_core.captions.evidence import Phrase
from mami_core.errors import DescriptionsError

COLUMNS = ("layer", "unit", "summary")
"""The columns of a descriptions file, as MILANNOTATIONS names them."""

PHRASES = "phrases.json"
"""What a folder of annotated neurons may say of its exemplars: [[text, kind], …]."""

_LARGEST_UNIT = 2**31 - 1


class Neuron(NamedTuple):
    """A unit of a layer; whose subject it is, the context says."""

    layer: str
    unit: int


@runtime_checkable
class Pictures(Protocol):
    """Where the pixels and regions of exemplars are."""

    def pixels(self, image: int) -> UInt8[np.ndarray, "3 h w"]:
        """One distinct image."""
        ...

    def region(self, neuron: int, rank: int) -> UInt8[np.ndarray, "h w"]:
        """Where the neuron at this position is active in its exemplar: above 0 inside, of any size."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """How true phrases are of each exemplar, where it is known: what `captions.evidence` learns."""

    phrases: tuple[Phrase, ...]
    truth: UInt8[np.ndarray, "neurons k phrases"]
    """From 0 to 255; 0 where there is no exemplar."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AnnotatedNeurons:
    """Neurons with exemplars and descriptions. A neuron's position in `neurons` is its number here."""

    neurons: tuple[Neuron, ...]
    descriptions: tuple[tuple[str, ...], ...]
    """What each neuron's annotators said, at least one description a neuron."""
    images: Int64[np.ndarray, "neurons k"]
    """The distinct image that each exemplar shows, strongest first; −1 where a neuron has fewer than k."""
    pictures: Pictures
    read_shown: Callable[[], Shown] | None = None
    """What the exemplars show, where it is known; read when it is called, since it may be half a gigabyte."""

    def __len__(self) -> int:
        return len(self.neurons)

    @property
    def k(self) -> int:
        """The largest number of exemplars of a neuron."""
        return self.images.shape[1]

    @property
    def num_images(self) -> int:
        """How many distinct images there are; they are numbered from 0."""
        return int(self.images.max(initial=-1)) + 1

    def sightings(self, images: Sequence[int]) -> Iterator["Sighting"]:
        """The given distinct images, in ascending order, each with every exemplar that shows it."""
        shown = self.images.ravel()
        at = np.flatnonzero(np.isin(shown, np.asarray(images, dtype=np.int64)) & (shown >= 0))
        at = at[np.argsort(shown[at], kind="stable")]
        numbers, starts = np.unique(shown[at], return_index=True)
        ends = np.searchsorted(shown[at], numbers, side="right")
        for image, first, end in zip(numbers, starts, ends, strict=True):
            neurons, ranks = np.unravel_index(at[first:end], self.images.shape)
            yield Sighting(int(image), tuple(zip(neurons.tolist(), ranks.tolist(), strict=True)))


class Sighting(NamedTuple):
    """One distinct image and the exemplars that show it, as (position of the neuron, rank of the exemplar)."""

    image: int
    exemplars: tuple[tuple[int, int], ...]


def read_descriptions(source: str | Path | bytes) -> pa.Table:
    """Descriptions in the order of the file, as `contracts.DESCRIPTIONS`, from a CSV file or its bytes.

    Raises:
        DescriptionsError: where the file is no CSV with the columns layer, unit, summary; a line that has no
            description or no unit number is named.
    """
    where = "descriptions" if isinstance(source, bytes) else str(source)
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
        rows = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
        _require_columns(rows.fieldnames or (), where)
        found = [_row(row, f"{where}, line {rows.line_num}") for row in rows]
    except OSError as error:
        raise DescriptionsError(
            f"{where}: expected a CSV file of descriptions, but it cannot be read: {error}."
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DescriptionsError(f"{where}: expected a CSV file in UTF-8; found something else: {error}.") from error
    if not found:
        raise DescriptionsError(f"{where}: expected at least one description below the header, found none.")
    return contracts.from_rows(found, contracts.DESCRIPTIONS)


def by_neuron(table: pa.Table) -> dict[Neuron, tuple[str, ...]]:
    """Every neuron's descriptions, from a table of `contracts.DESCRIPTIONS`; neurons as they first occur."""
    found: dict[Neuron, list[str]] = {}
    for row in table.to_pylist():
        found.setdefault(Neuron(row["layer"], row["unit"]), []).append(row["description"])
    return {neuron: tuple(descriptions) for neuron, descriptions in found.items()}


def descriptions_csv(descriptions: Mapping[Neuron, Sequence[str]]) -> bytes:
    """The file that `read_descriptions` reads."""
    text = io.StringIO(newline="")
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(COLUMNS)
    lines.writerows((*neuron, description) for neuron, said in descriptions.items() for description in said)
    return text.getvalue().encode()


def phrases_json(phrases: Sequence[Phrase]) -> bytes:
    """The file that `read_phrases` reads, a phrase a line."""
    lines = ",\n".join(json.dumps(phrase, ensure_ascii=False) for phrase in phrases)
    return f"[\n{lines}\n]\n".encode()


def read_phrases(file: Path) -> tuple[Phrase, ...]:
    """The phrases of a folder of annotated neurons; none where there is no such file.

    Raises:
        DescriptionsError: the file is something else.
    """
    try:
        rows = json.loads(file.read_bytes())
        phrases = tuple(Phrase(text, kind) for text, kind in rows)
    except FileNotFoundError:
        return ()
    except (ValueError, TypeError, OSError, RecursionError) as error:
        raise DescriptionsError(f"{file}: expected a list of phrases, [[text, kind], …]: {error}") from error
    texts = {text for text, kind in phrases if isinstance(text, str) and isinstance(kind, str)}
    if not phrases or len(texts) < len(phrases):
        raise DescriptionsError(f"{file}: expected texts and kinds of phrases, each text once, and at least one.")
    return phrases


def _require_columns(found: Sequence[str], where: str) -> None:
    missing = [column for column in COLUMNS if column not in found]
    if missing:
        raise DescriptionsError(f"{where}: expected the columns {', '.join(COLUMNS)}; found {list(found)[:8]}.")


def _row(row: Mapping[str, str | None], where: str) -> dict:
    layer, unit, summary = (str(row[column] or "").strip() for column in COLUMNS)
    if not layer or not summary:
        raise DescriptionsError(f"{where}: expected a layer and a description; one is empty. Remove or complete it.")
    if not (unit.isascii() and unit.isdigit()) or int(unit) > _LARGEST_UNIT:
        raise DescriptionsError(f"{where}: expected a unit number from 0, found {unit!r}.")
    return {"layer": layer, "unit": int(unit), "description": summary}
