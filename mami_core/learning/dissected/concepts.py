"""Concept neurons: for a word, or two, photographs that show it and regions as coarse and as noisy as a network's.

Real networks have few neurons for most words. These have as many as are wanted.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int64
from PIL import Image

from mami_core.features.looks import GRID
from mami_core.learning.dissected.choose import Demands
from mami_core.learning.dissected.looks import family
from mami_core.learning.dissected.phrases import NOUNS, Finding, Words
from mami_core.learning.dissected.table import ConceptTable
from mami_core.learning.dissected.units import REGION, Exemplars, Observed, findings
from mami_core.learning.dissected.words import Word

_FEWEST = 6
"""Photographs that must show a word."""
_EXACT = 0.3
"""Share of regions that are the word's own map; the others are coarse spots on it."""
_FOREIGN = {0.0: 0.3, 0.1: 0.2, 0.2: 0.2, 0.3: 0.2, 0.4: 0.1}
"""Shares of exemplars that show something else, as real neurons' do, and how often each share is taken."""
_PER_KIND = {
    "thing": 1.0,
    "part": 1.5,
    "look": 1.5,
    "stuff": 1.5,
    "scene": 1.0,
    "material": 0.7,
    "colour": 3.0,
    "low": 2.0,
}
_PER_PLACE = 3.0
_OWN = 0.35
"""How many neurons a single name gets, against a word for a group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConceptsConfig:
    """How many concept neurons to make."""

    per_word: float = 10.0
    """Neurons a word; combinations of it come on top."""
    k: int = 15
    """Exemplars a neuron."""
    seed: int = 0


class _Shown(NamedTuple):
    """A photograph that shows a word."""

    photograph: int
    word: int


class _Neuron(NamedTuple):
    words: tuple[int, ...]
    exemplars: list[tuple[int, Bool[np.ndarray, "g g"]]]


def concept_neurons(
    table: ConceptTable, words: Words, config: ConceptsConfig, demands: Demands
) -> tuple[Observed, list[Finding]]:
    """Neurons for every word of the table, and what can be said of them."""
    made = list(_Maker(table, words, config).neurons())
    observed = Observed(table, _packed(made, config.k))
    first = [_first_noun(words, neuron) for neuron in made]
    found = findings(observed, words, depth=0.6, demands=demands, first=first)
    return observed, [_named_after(neuron, finding, words) for neuron, finding in zip(made, found, strict=True)]


class _Maker:
    def __init__(self, table: ConceptTable, words: Words, config: ConceptsConfig) -> None:
        self.table, self.words, self.config = table, words, config
        self.rng = np.random.default_rng(config.seed)
        self.kinds = [word.kind for word in table.words]
        shown: dict[int, list[_Shown]] = {}
        for photograph in range(len(table)):
            for word in table.words_in(photograph).tolist():
                shown.setdefault(word, []).append(_Shown(photograph, word))
        self.shown = {word: places for word, places in shown.items() if len(places) >= _FEWEST}

    def neurons(self) -> Iterator[_Neuron]:
        """All of them, word by word; a combination that too few photographs show is left out."""
        for word in sorted(self.shown):
            for make, number in self._plan(word):
                for _ in range(number):
                    neuron = make(word)
                    if neuron is not None:
                        yield neuron
        for place in range(len(self.table.places)):
            for _ in range(round(_PER_PLACE * self.config.per_word)):
                yield self._place_alone(place)

    def _plan(self, word: int) -> list[tuple[Callable[[int], _Neuron | None], int]]:
        kind, own = self.kinds[word], self.table.words[word].own
        number = max(1, round(self.config.per_word * _PER_KIND[kind] * (_OWN if own else 1)))
        plan: list[tuple[Callable[[int], _Neuron | None], int]] = [(self._one, number), (self._two, -(-number // 3))]
        if kind in ("thing", "stuff", "look", "part", "low"):
            plan.append((self._coloured, -(-number // 4)))
        if kind in ("thing", "low"):
            plan.append((self._in_context, -(-number // 4)))
        if kind not in ("scene", "material"):
            plan.append((self._at_a_place, -(-number // 5)))
        return plan

    def _one(self, word: int) -> _Neuron:
        return self._neuron((word,), [self._region(place) for place in self._pick(self.shown[word], self._count())])

    def _two(self, word: int) -> _Neuron | None:
        others = [
            other
            for other in self.shown
            if not self.words.kin[word, other] and _go_together(self.table.words[word], self.table.words[other])
        ]
        if not others:
            return None
        other, count = int(self.rng.choice(others)), self._count()
        share = round(count * self.rng.uniform(0.4, 0.7))
        places = self._pick(self.shown[word], share) + self._pick(self.shown[other], count - share)
        return self._neuron((word, other), [self._region(place) for place in places])

    def _coloured(self, word: int) -> _Neuron | None:
        colours = [other for other in self.shown if self.kinds[other] == "colour"]
        if not colours:
            return None
        colour = int(self.rng.choice(colours))
        found, count = [], self._count()
        for place in self._pick(self.shown[word], len(self.shown[word])):
            cells = self.table.cells(*place)
            both = cells * self.table.cells(place.photograph, colour)
            if both.sum() > 0.25 * max(1.0, cells.sum()):
                found.append((place, both))
            if len(found) == count:
                break
        if len(found) < _FEWEST:
            return None
        return self._neuron((word,), [self._region(place, cells) for place, cells in found])

    def _in_context(self, word: int) -> _Neuron | None:
        if not self.table.contexts:
            return None
        context = int(self.rng.integers(len(self.table.contexts)))
        inside = [place for place in self.shown[word] if self.table.in_context[place.photograph, context] > 0.6]
        if len(inside) < _FEWEST or self.table.words[word].text == self.table.contexts[context]:
            return None
        return self._neuron((word,), [self._region(place) for place in self._pick(inside, self._count())])

    def _at_a_place(self, word: int) -> _Neuron | None:
        places = self.table.places
        where = places[int(self.rng.integers(len(places)))].reshape(GRID, GRID) / 255
        found = [place for place in self.shown[word] if (self.table.cells(*place) * where).sum() > 6]
        if len(found) < _FEWEST:
            return None
        chosen = self._pick(found, self._count())
        regions = [(place.photograph, spot(self.table.cells(*place) * where, self.rng)) for place in chosen]
        return self._neuron((word,), regions)

    def _place_alone(self, place: int) -> _Neuron:
        """Whatever is there."""
        where = self.table.places[place].reshape(GRID, GRID) / 255
        photographs = self.rng.integers(len(self.table), size=self._count()).tolist()
        return self._neuron((), [(photograph, spot(where, self.rng)) for photograph in photographs])

    def _count(self) -> int:
        foreign = self.rng.choice(list(_FOREIGN), p=list(_FOREIGN.values()))
        return self.config.k - int(foreign * self.config.k)

    def _pick(self, places: Sequence[_Shown], count: int) -> list[_Shown]:
        """At random, rather where the word is large."""
        areas = self.table.areas[tuple(np.array(places).T)] if places else np.zeros(0)
        weight = np.sqrt(areas) + 0.02
        count = min(count, len(places))
        return [places[i] for i in self.rng.choice(len(places), count, replace=False, p=weight / weight.sum())]

    def _region(
        self, place: _Shown, cells: Float[np.ndarray, "g g"] | None = None
    ) -> tuple[int, Bool[np.ndarray, "g g"]]:
        cells = self.table.cells(*place) if cells is None else cells
        if self.rng.random() < _EXACT:
            return place.photograph, cells >= min(0.5, cells.max())
        return place.photograph, spot(cells, self.rng)

    def _neuron(self, words: tuple[int, ...], exemplars: list[tuple[int, Bool[np.ndarray, "g g"]]]) -> _Neuron:
        """With foreign exemplars up to k, anywhere in the order."""
        for photograph in self.rng.integers(len(self.table), size=self.config.k - len(exemplars)).tolist():
            cells = self.table.cells(photograph, int(self.rng.choice(self.table.words_in(photograph))))
            exemplars.insert(int(self.rng.integers(len(exemplars) + 1)), (photograph, spot(cells, self.rng)))
        return _Neuron(words, exemplars)


def _go_together(word: Word, other: Word) -> bool:
    """Whether "x and y" can be said: a thing and a colour would be a coloured thing, thin and dark lines the same."""
    if word.kind in ("colour", "low"):
        return word.kind == other.kind and family(word.text) != family(other.text)
    return other.kind not in ("scene", "material") and other.kind in NOUNS


def spot(cells: Float[np.ndarray, "g g"], rng: np.random.Generator) -> Bool[np.ndarray, "g g"]:
    """A round region on a map, as an activation map of 7 to 16 cells a side would give it."""
    inside = np.argwhere(cells > min(0.5, 0.9 * cells.max()))
    centre = inside[rng.integers(len(inside))].astype(float)
    if rng.random() < 0.5:
        centre = (centre + inside.mean(0)) / 2
    radius = min(14.0, max(2.0, np.sqrt(cells.sum())) * rng.uniform(0.25, 0.7))
    down, across = np.mgrid[:GRID, :GRID]
    stretch = rng.uniform(0.7, 1.4)
    round_ = ((down - centre[0]) / radius) ** 2 + ((across - centre[1]) / (radius * stretch)) ** 2 < 1
    side = int(rng.integers(7, 17))
    coarse = Image.fromarray(round_.astype(np.float32)).resize((side, side), Image.Resampling.BOX)
    fine = np.asarray(coarse.resize((GRID, GRID), Image.Resampling.BILINEAR))
    return fine >= min(0.5, 0.8 * fine.max())


def _packed(neurons: Sequence[_Neuron], k: int) -> Exemplars:
    photographs: Int64[np.ndarray, "u k"] = np.full((len(neurons), k), -1, np.int64)
    regions = np.zeros((len(neurons), k, REGION**2 // 8), np.uint8)
    for unit, neuron in enumerate(neurons):
        for rank, (photograph, region) in enumerate(neuron.exemplars):
            photographs[unit, rank] = photograph
            regions[unit, rank] = np.packbits(region.repeat(REGION // GRID, 0).repeat(REGION // GRID, 1))
    return Exemplars(photographs, regions)


def _first_noun(words: Words, neuron: _Neuron) -> int | None:
    return next((word for word in neuron.words if words.words[word].kind in NOUNS), None)


def _named_after(neuron: _Neuron, finding: Finding, words: Words) -> Finding:
    """What was found, but the neuron's own words first: they are known."""
    own = [words.words[word] for word in neuron.words]
    nouns = tuple(word.text for word in own if word.kind in NOUNS)
    colours = tuple(word.text for word in own if word.kind == "colour")
    low = tuple(word.text for word in own if word.kind == "low")
    if len(own) > 1:
        finding = dataclasses.replace(finding, nouns=nouns, wider=None, colours=(), low=())
    if colours:
        others = tuple(colour for colour in finding.colours if colour not in colours)
        often = finding.often - set(colours)
        finding = dataclasses.replace(finding, nouns=nouns, colours=(*colours, *others)[:2], often=often)
    if low:
        others = tuple(name for name in finding.low if name not in low)
        finding = dataclasses.replace(finding, nouns=nouns, low=(*low, *others)[:4])
    return finding
