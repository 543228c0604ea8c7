"""Exemplars of a layer's units over annotated photographs → what can be said of each unit.

As Bau et al., 2017 (arXiv 1704.05796) dissect networks, with exemplars in place of all positions.

Axes: U units, K exemplars, P photographs, G cells of a grid, flattened.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int64, UInt8

from mami_core.features.looks import FINE
from mami_core.learning.dissected.choose import Demands, choose
from mami_core.learning.dissected.evidence import centred, depth_weight, surprise
from mami_core.learning.dissected.phrases import Finding, Words
from mami_core.learning.dissected.table import ConceptTable
from mami_core.learning.dissected.words import Word

REGION = FINE
"""Side of the regions of annotated neurons in cells."""

_CORRELATION, _MOST = 0.15, 80.0
"""How many nats a squared correlation over one photograph is worth, and what it is worth at most."""
_USUAL, _AROUND = 0.5, (3.0, 9.0)
"""Log-likelihood ratio of a context that is worth saying, if so many exemplars have it, and else."""
_SHOWN, BESIDE = 0.01, 0.25
"""A photograph shows a word that is true of so much of it; the word lies beside regions of which it is true by less."""
_UNITS_AT_ONCE = 2048


class Seen(NamedTuple):
    """What is true of exemplars, or how often it is by chance."""

    hits: Float[np.ndarray, "*of w"]
    """Words of their regions."""
    contexts: Float[np.ndarray, "*of x"]
    shown: Float[np.ndarray, "*of w"]
    """Words of anything in their photographs."""


@dataclass(frozen=True, slots=True, eq=False)
class Exemplars:
    """What a layer's units look for in annotated photographs."""

    photographs: Int64[np.ndarray, "u k"]
    """Numbers in the concept table, strongest first; −1 where a unit has fewer."""
    regions: UInt8[np.ndarray, "u k bytes"]
    """`REGION` × `REGION` bits each, as `numpy.packbits` packs them."""

    def __len__(self) -> int:
        return len(self.photographs)

    @property
    def present(self) -> Bool[np.ndarray, "u k"]:
        """Where there is an exemplar."""
        return self.photographs >= 0

    def some(self, first: int, end: int) -> "Exemplars":
        """A range of the units."""
        return Exemplars(self.photographs[first:end], self.regions[first:end])


@dataclass(frozen=True, eq=False)
class Observed:
    """Exemplars, and what a table says of each of them."""

    table: ConceptTable
    exemplars: Exemplars

    @cached_property
    def in_blocks(self) -> list[Seen]:
        """What is true of each exemplar, some units after another. It is worked out once, and holds much memory."""
        return [_seen(self.table, block) for block in _blocks(self.exemplars)]


def findings(
    observed: Observed,
    words: Words,
    *,
    depth: float,
    demands: Demands,
    peaks: Float[np.ndarray, "p u"] | None = None,
    first: Sequence[int | None] | None = None,
) -> list[Finding]:
    """What can be said of each unit; an empty finding for units of which nothing can.

    A word is said for its lift over chance under the regions, chance being how often it is true under the regions of
    all these units; and for how well its presence goes with the unit over all photographs.

    Args:
        observed: The exemplars of one layer.
        words: The table's words.
        depth: Of the layer, from 0 for the first to 1 for the last.
        demands: How sure to be.
        peaks: The units' highest activations on all photographs, where they are known.
        first: A word that must be said first of each unit.
    """
    table, present = observed.table, observed.exemplars.present
    correlation = _correlation(table, peaks) if peaks is not None else None
    sums = (np.sum([of.sum((0, 1)) for of in each], axis=0) for each in zip(*observed.in_blocks, strict=True))
    chance = Seen(*(np.divide(total, max(1, present.sum())) for total in sums))
    weight = depth_weight(table.words, depth)
    found = []
    for unit, seen in enumerate(Seen(*of) for block in observed.in_blocks for of in zip(*block, strict=True)):
        here = present[unit]
        if not here.any():
            found.append(Finding())
            continue
        hits, contexts, shown = (of[here] for of in seen)
        support = hits.mean(0)
        gain = weight * surprise(support, chance.hits, len(hits))
        score = gain
        if correlation is not None:
            worth = _CORRELATION * len(table) * np.square(np.maximum(correlation[unit], 0))
            score = gain + weight * np.minimum(worth, _MOST) * (support > 0.2)
        around = surprise(contexts.mean(0), chance.contexts, len(hits))
        usual = contexts.mean(0) >= _USUAL
        shares = {table.contexts[x]: float(contexts.mean(0)[x]) for x in np.argsort(-around)}
        telling = {table.contexts[x] for x in np.flatnonzero(around > np.where(usual, *_AROUND))}
        names = {name: share for name, share in shares.items() if name in telling}
        near = weight * surprise(shown.mean(0), chance.shown, len(hits)) * (support < BESIDE)
        names |= _near(table, near, shown.mean(0), demands)
        found.append(choose(hits, gain, score, words, names, demands, first=None if first is None else first[unit]))
    return found


def _near(
    table: ConceptTable, gain: Float[np.ndarray, " w"], shown: Float[np.ndarray, " w"], demands: Demands
) -> dict[str, float]:
    """The thing that most exemplars show beside their regions, if it is surely no chance, and how many do."""
    sure = (gain > 1.5 * demands.gain) & (shown >= 0.6) & table.is_thing.astype(bool)
    sure &= is_near(table.words)
    best = int(np.argmax(np.where(sure, gain, -1)))
    return {table.words[best].text: float(shown[best])} if sure.any() else {}


def is_near(words: Sequence[Word]) -> Bool[np.ndarray, " w"]:
    """Which words can be said to be near: things that are no name's own plural."""
    return np.array([word.kind == "thing" and not word.own for word in words])


def _blocks(exemplars: Exemplars) -> list[Exemplars]:
    starts = range(0, len(exemplars), _UNITS_AT_ONCE)
    return [exemplars.some(start, start + _UNITS_AT_ONCE) for start in starts]


def _seen(table: ConceptTable, block: Exemplars) -> Seen:
    """What is true of each exemplar; 0 where there is none."""
    present = block.present
    photographs = block.photographs[present]

    def filled(values: Float[np.ndarray, "r n"]) -> Float[np.ndarray, "u k n"]:
        found = np.zeros((*present.shape, values.shape[1]), np.float32)
        found[present] = values
        return found

    return Seen(
        filled(table.hits(photographs, block.regions[present])),
        filled(table.in_context[photographs]),
        filled((table.areas[photographs] > _SHOWN).astype(np.float32)),
    )


def _correlation(table: ConceptTable, peaks: Float[np.ndarray, "p u"]) -> Float[np.ndarray, "u w"]:
    """Of the units' activations with the words' presence, within sources: each source has a style of its own."""
    return centred(peaks, table.sources).T @ centred(table.presence, table.sources)
