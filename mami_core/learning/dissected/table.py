"""Concept maps of many photographs as arrays, and what they say of regions.

Axes: P photographs, W words, R regions, G cells of a grid, flattened, M maps (a photograph's words, one after another).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int64, UInt8

from mami_core.learning.dissected.evidence import hits
from mami_core.learning.dissected.maps import Cells, places
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
    """The last ones are places, which are the same in every photograph and have no maps here."""
    sources: Int64[np.ndarray, " p"]
    """The source of each photograph, numbered."""
    starts: Int64[np.ndarray, " p_and_one"]
    """Photograph p has the maps from starts[p] up to starts[p + 1]."""
    map_words: Int64[np.ndarray, " m"]
    maps: UInt8[np.ndarray, "m g"]
    """The share of each cell for which the word is true, from 0 to 255."""

    def __len__(self) -> int:
        return len(self.sources)

    @cached_property
    def numbers(self) -> Mapping[Word, int]:
        """The place of each word among the words."""
        return {word: number for number, word in enumerate(self.words)}

    @cached_property
    def _places(self) -> UInt8[np.ndarray, "places g"]:
        return np.stack([(cells.reshape(-1) * 255).astype(np.uint8) for cells in places().values()])

    @cached_property
    def is_thing(self) -> Float[np.ndarray, " w"]:
        """1 for words of things, which have an extent of their own."""
        return np.array([word.kind in ("thing", "part", "look") for word in self.words], np.float32)

    @cached_property
    def areas(self) -> Float[np.ndarray, "p w"]:
        """The share of each photograph for which each word is true."""
        found = np.zeros((len(self), len(self.words)), np.float32)
        of = np.repeat(np.arange(len(self)), np.diff(self.starts))
        found[of, self.map_words] = self.maps.mean(1, dtype=np.float32) / 255
        found[:, len(self.words) - len(self._places) :] = self._places.mean(1) / 255
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
        known = {word.text for word in self.words if word.kind != "place"}
        return tuple(text for text in CONTEXTS if text in known)

    @cached_property
    def in_context(self) -> Float[np.ndarray, "p contexts"]:
        """How much each photograph is in each context, from 0 to 1."""
        columns = [[w for w, word in enumerate(self.words) if word.text == text] for text in self.contexts]
        filled = [self.areas[:, of].max(1) / _FILLS for of in columns]
        return np.minimum(1, np.stack(filled, 1)) if filled else np.zeros((len(self), 0), np.float32)

    def maps_of(self, photograph: int) -> tuple[Int64[np.ndarray, " w"], UInt8[np.ndarray, "w g"]]:
        """The words that are true somewhere in a photograph, places among them, and where."""
        own = slice(self.starts[photograph], self.starts[photograph + 1])
        first = len(self.words) - len(self._places)
        words = np.concatenate([self.map_words[own], np.arange(first, len(self.words))])
        return words, np.concatenate([self.maps[own], self._places])

    def hits(self, photographs: Int64[np.ndarray, " r"], regions: Float[np.ndarray, "r g"]) -> Float[np.ndarray, "r w"]:
        """How true each word is of each region (`evidence.hits`), in half precision."""
        found = np.zeros((len(photographs), len(self.words)), np.float16)
        order = np.argsort(photographs, kind="stable")
        numbers, first = np.unique(photographs[order], return_index=True)
        for number, rows in zip(numbers, np.split(order, first[1:]), strict=True):
            words, maps = self.maps_of(int(number))
            found[rows[:, None], words[None]] = hits(regions[rows], maps, self.is_thing[words])
        return found

    def only(self, chosen: Bool[np.ndarray, " p"]) -> "ConceptTable":
        """Some of the photographs, numbered anew."""
        counts = np.diff(self.starts)
        rows = np.repeat(chosen, counts)
        starts = np.cumsum([0, *counts[chosen]])
        return ConceptTable(self.words, self.sources[chosen], starts, self.map_words[rows], self.maps[rows])


def concept_table(maps: Sequence[Mapping[Word, Cells]], sources: Sequence[str]) -> ConceptTable:
    """The maps of photographs, one mapping a photograph, without the words that too few show."""
    counts: dict[Word, int] = {}
    for of_one in maps:
        for word in of_one:
            counts[word] = counts.get(word, 0) + 1
    kept = [word for word, count in counts.items() if count >= (_FEWEST_OWN if word.own else _FEWEST)]
    numbers = {word: number for number, word in enumerate(kept)}
    rows = [[(numbers[word], cells) for word, cells in of_one.items() if word in numbers] for of_one in maps]
    flat = [row for of_one in rows for row in of_one]
    names = sorted(set(sources))
    return ConceptTable(
        words=(*kept, *places()),
        sources=np.array([names.index(source) for source in sources], np.int64),
        starts=np.cumsum([0, *map(len, rows)]),
        map_words=np.array([number for number, _ in flat], np.int64),
        maps=np.stack([(cells.reshape(-1).astype(np.float32) * 255).astype(np.uint8) for _, cells in flat]),
    )
