"""Concept maps of many photographs as arrays, and what they say of regions.

Axes: P photographs, W words, R regions, G cells of a grid, flattened, M maps (a photograph's words, one after another),
S words of `maps.SEEN`, whose maps and regions have small cells, a bit each.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int64, UInt8

from mami_core.features.looks import FINE, GRID
from mami_core.learning.dissected.evidence import form_hits, hits, place_hits, seen_hits
from mami_core.learning.dissected.maps import OF_REGIONS, SEEN, Cells, Maps, places
from mami_core.learning.dissected.phrases import CONTEXTS
from mami_core.learning.dissected.words import Word

_FEWEST, _FEWEST_OWN = 3, 5
"""Photographs that must show a word, and a name of its own, before anything is called so."""
_FILLS = 0.15
"""Share of a photograph that a context fills."""


@dataclass(frozen=True, eq=False)
class ConceptTable:
    """Where each word is true in each of many photographs. `concept_table` makes one."""

    words: tuple[Word, ...]
    """Those of annotations, those of `SEEN`, forms of regions, which photographs know nothing of, and places, which are
    the same in every photograph."""
    sources: Int64[np.ndarray, " p"]
    """The source of each photograph, numbered."""
    starts: Int64[np.ndarray, " p_and_one"]
    """Photograph p has the maps from starts[p] up to starts[p + 1]."""
    map_words: Int64[np.ndarray, " m"]
    maps: UInt8[np.ndarray, "m g"]
    """The share of each cell for which the word is true, from 0 to 255."""
    seen: UInt8[np.ndarray, "p s bytes"]
    """Where each of `SEEN` is true."""

    def __len__(self) -> int:
        return len(self.sources)

    @cached_property
    def numbers(self) -> Mapping[Word, int]:
        """The place of each word among the words."""
        return {word: number for number, word in enumerate(self.words)}

    @cached_property
    def places(self) -> UInt8[np.ndarray, "places g"]:
        """Where each place is, in every photograph."""
        return np.stack([_in_bytes(cells) for cells in places().values()])

    @cached_property
    def is_thing(self) -> Float[np.ndarray, " w"]:
        """1 for words of things, which have an extent of their own."""
        return np.array([word.kind in ("thing", "part", "look") for word in self.words], np.float32)

    @cached_property
    def of_seen(self) -> slice:
        """The words of `SEEN` among the words."""
        end = self.of_forms.start
        return slice(end - len(SEEN), end)

    @cached_property
    def of_forms(self) -> slice:
        """The words of `OF_REGIONS` among the words."""
        end = len(self.words) - len(self.places)
        return slice(end - len(OF_REGIONS), end)

    @cached_property
    def areas(self) -> Float[np.ndarray, "p w"]:
        """The share of each photograph for which each word is true."""
        found = np.zeros((len(self), len(self.words)), np.float32)
        of = np.repeat(np.arange(len(self)), np.diff(self.starts))
        found[of, self.map_words] = self.maps.mean(1, dtype=np.float32) / 255
        found[:, self.of_seen] = np.bitwise_count(self.seen.view(np.uint64)).sum(2, dtype=np.float32) / FINE**2
        found[:, self.of_forms.stop :] = self.places.mean(1) / 255
        return found

    @cached_property
    def presence(self) -> Float[np.ndarray, "p w"]:
        """How much each photograph shows of each word: its area, for things mostly whether it is there at all."""
        by_area = np.array([word.kind in ("colour", "low", "stuff", "place") for word in self.words])
        return np.where(by_area, self.areas, np.minimum(1, (self.areas > 0) * (0.4 + 2 * self.areas))).astype(
            np.float32
        )

    @cached_property
    def contexts(self) -> tuple[str, ...]:
        """The words of `phrases.CONTEXTS` that any photograph shows."""
        shown = (self.words[number] for number in np.flatnonzero(self.areas.any(0)))
        known = {word.text for word in shown if word.kind != "place"}
        return tuple(text for text in CONTEXTS if text in known)

    @cached_property
    def in_context(self) -> Float[np.ndarray, "p contexts"]:
        """How much each photograph is in each context, from 0 to 1."""
        columns = [[w for w, word in enumerate(self.words) if word.text == text] for text in self.contexts]
        filled = [self.areas[:, of].max(1) / _FILLS for of in columns]
        return np.minimum(1, np.stack(filled, 1)) if filled else np.zeros((len(self), 0), np.float32)

    def words_in(self, photograph: int) -> Int64[np.ndarray, " w"]:
        """The words that are true somewhere in a photograph, without places."""
        seen = self.seen[photograph].any(1).nonzero()[0] + self.of_seen.start
        return np.concatenate([self._named(photograph)[0], seen])

    def cells(self, photograph: int, word: int) -> Cells:
        """The share of each cell of a photograph for which a word is true, which is no place."""
        if word >= self.of_seen.start:
            return on_grid(self.seen[photograph, word - self.of_seen.start]).reshape(GRID, GRID)
        words, maps = self._named(photograph)
        return (maps[words == word].sum(0) / 255).astype(np.float32).reshape(GRID, GRID)

    def hits(
        self, photographs: Int64[np.ndarray, " r"], regions: UInt8[np.ndarray, "r bytes"]
    ) -> Float[np.ndarray, "r w"]:
        """How true each word is of each region (`evidence.hits`), in half precision."""
        found = np.zeros((len(photographs), len(self.words)), np.float16)
        if not len(photographs):
            return found
        in_cells = on_grid(regions)
        found[:, self.of_forms] = form_hits(regions)
        found[:, self.of_forms.stop :] = place_hits(in_cells, self.places)
        order = np.argsort(photographs, kind="stable")
        numbers, first = np.unique(photographs[order], return_index=True)
        for number, rows in zip(numbers, np.split(order, first[1:]), strict=True):
            words, maps = self._named(int(number))
            found[rows[:, None], words[None]] = hits(in_cells[rows], maps, self.is_thing[words])
            found[rows, self.of_seen] = seen_hits(regions[rows], self.seen[number])
        return found

    def _named(self, photograph: int) -> tuple[Int64[np.ndarray, " w"], UInt8[np.ndarray, "w g"]]:
        own = slice(self.starts[photograph], self.starts[photograph + 1])
        return self.map_words[own], self.maps[own]


def on_grid(packed: UInt8[np.ndarray, "*r bytes"]) -> Float[np.ndarray, "*r g"]:
    """Of maps or regions of small cells, the share of each cell of the grid that lies in them."""
    by = FINE // GRID
    bits = np.unpackbits(packed, axis=-1).reshape(*packed.shape[:-1], GRID, by, GRID, by)
    inside = sum(bits[..., row, :, column] for row in range(by) for column in range(by))  # faster than a mean
    return (inside / np.float32(by**2)).reshape(*packed.shape[:-1], GRID**2)


def concept_table(maps: Sequence[Maps], sources: Sequence[str]) -> ConceptTable:
    """The maps of photographs, without the words of annotations that too few show."""
    counts: dict[Word, int] = {}
    for of_one, _ in maps:
        for word in of_one:
            counts[word] = counts.get(word, 0) + 1
    kept = [word for word, count in counts.items() if count >= (_FEWEST_OWN if word.own else _FEWEST)]
    numbers = {word: number for number, word in enumerate(kept)}
    rows = [[(numbers[word], cells) for word, cells in of_one.items() if word in numbers] for of_one, _ in maps]
    flat = [row for of_one in rows for row in of_one]
    names = sorted(set(sources))
    return ConceptTable(
        words=(*kept, *SEEN, *OF_REGIONS, *places()),
        sources=np.array([names.index(source) for source in sources], np.int64),
        starts=np.cumsum([0, *map(len, rows)]),
        map_words=np.array([number for number, _ in flat], np.int64),
        maps=np.array([_in_bytes(cells) for _, cells in flat], np.uint8).reshape(-1, GRID**2),
        seen=np.stack([seen for _, seen in maps]),
    )


def _in_bytes(cells: Cells) -> UInt8[np.ndarray, " cells"]:
    return (cells.reshape(-1).astype(np.float32) * 255).astype(np.uint8)
