"""Exemplars of a layer's units over annotated photographs → what can be said of each unit.

As Bau et al., 2017 (arXiv 1704.05796) dissect networks, with exemplars in place of all positions.

Axes: U units, K exemplars, P photographs, G cells of a grid, flattened.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64, UInt8

from mami_core.learning.dissected.choose import Demands, choose
from mami_core.learning.dissected.evidence import centred, depth_weight, surprise
from mami_core.learning.dissected.phrases import Finding, Words
from mami_core.learning.dissected.pixels import GRID
from mami_core.learning.dissected.table import ConceptTable

REGION = 2 * GRID
"""Side of the regions of annotated neurons in cells."""

_CORRELATION, _MOST = 0.15, 80.0
"""How many nats a squared correlation over one photograph is worth, and what it is worth at most."""
_UNITS_AT_ONCE = 512


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


def on_grid(packed: UInt8[np.ndarray, "r bytes"]) -> Float[np.ndarray, "r g"]:
    """The share of each cell of the concept maps' grid that lies in each region."""
    bits = np.unpackbits(packed, axis=1).reshape(-1, GRID, 2, GRID, 2)
    return bits.mean((2, 4), dtype=np.float32).reshape(len(packed), GRID * GRID)


def findings(
    table: ConceptTable,
    words: Words,
    exemplars: Exemplars,
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
        table: What the photographs show.
        words: The table's words.
        exemplars: Of one layer.
        depth: Of the layer, from 0 for the first to 1 for the last.
        demands: How sure to be.
        peaks: The units' highest activations on all photographs, where they are known.
        first: A word that must be said first of each unit.
    """
    correlation = _correlation(table, peaks) if peaks is not None else None
    hits_in_blocks = [_hits(table, block) for block in _blocks(exemplars)]
    present = exemplars.present
    chance, usual = (
        np.sum([block.sum((0, 1)) for block in of], axis=0) / max(1, present.sum())
        for of in zip(*hits_in_blocks, strict=True)
    )
    weight = depth_weight(table.words, depth)
    found = []
    for unit, (hits, contexts) in enumerate((h, c) for hs, cs in hits_in_blocks for h, c in zip(hs, cs, strict=True)):
        here = present[unit]
        if not here.any():
            found.append(Finding())
            continue
        count = np.array([here.sum()])
        support = hits[here].mean(0)
        gain = weight * surprise(support[None], chance, count)[0]
        around = surprise(contexts[here].mean(0)[None], usual, count)[0]
        score = gain
        if correlation is not None:
            worth = _CORRELATION * len(table) * np.square(np.maximum(correlation[unit], 0))
            score = gain + weight * np.minimum(worth, _MOST) * (support > 0.2)
        said = None if first is None else first[unit]
        found.append(choose(hits[here], gain, score, words, around, table.contexts, demands, first=said))
    return found


def _blocks(exemplars: Exemplars) -> list[Exemplars]:
    starts = range(0, len(exemplars), _UNITS_AT_ONCE)
    return [exemplars.some(start, start + _UNITS_AT_ONCE) for start in starts]


def _hits(table: ConceptTable, block: Exemplars) -> tuple[Float[np.ndarray, "u k w"], Float[np.ndarray, "u k x"]]:
    """How true each word, and each context, is of each exemplar; 0 where there is none."""
    present = block.present
    shown = block.photographs[present]
    hits = np.zeros((*present.shape, len(table.words)), np.float32)
    hits[present] = table.hits(shown, on_grid(block.regions[present]))
    contexts = np.zeros((*present.shape, len(table.contexts)), np.float32)
    contexts[present] = table.in_context[shown]
    return hits, contexts


def _correlation(table: ConceptTable, peaks: Float[np.ndarray, "p u"]) -> Float[np.ndarray, "u w"]:
    """Of the units' activations with the words' presence, within sources: each source has a style of its own."""
    return centred(peaks, table.sources).T @ centred(table.presence, table.sources)
