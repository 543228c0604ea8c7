"""How true the phrases of captions are of each exemplar: what a captioner's evidence is learned from.

A phrase is as true as the truest of the words that are said so: "black" where the region is black, and where black
lines are. Axes: U units, K exemplars, C claims (words under the region, contexts, things near it), P phrases.
"""

import numpy as np
from jaxtyping import Int64, UInt8

from mami_core.captions.evidence import Phrase
from mami_core.learning.dissected.phrases import around, said
from mami_core.learning.dissected.table import ConceptTable
from mami_core.learning.dissected.units import BESIDE, Observed, Seen, is_near

_KINDS = ("noun", "place", "context", "look", "surface", "colour", "size", "tone", "turn", "side")
"""A phrase is of the first kind of which any word makes it."""


def phrases_of(table: ConceptTable) -> tuple[Phrase, ...]:
    """Every phrase that captions say of what a table knows, in the order of their texts; each text once."""
    return tuple(_claims(table))


def truth_of(observed: Observed) -> UInt8[np.ndarray, "u k phrases"]:
    """How true each of `phrases_of` is of each exemplar, from 0 to 255; 0 where there is no exemplar."""
    claims = list(_claims(observed.table).values())
    flat, starts = np.concatenate(claims), np.cumsum([0, *map(len, claims[:-1])])
    near = np.flatnonzero(is_near(observed.table.words))
    return np.concatenate(
        [np.maximum.reduceat(_truth(seen, near)[..., flat], starts, axis=2) for seen in observed.in_blocks]
    )


def _claims(table: ConceptTable) -> dict[Phrase, Int64[np.ndarray, " claims"]]:
    """For each phrase the claims that are said so, in the order of `_truth`."""
    near = np.flatnonzero(is_near(table.words))
    beside = (*table.contexts, *(table.words[word].text for word in near))
    told = [*map(said, table.words), *((Phrase(around(name), "context"),) for name in beside)]
    kinds: dict[str, str] = {}
    claims: dict[str, list[int]] = {}
    for number, ways in enumerate(told):
        for text, kind in ways:
            kinds[text] = min(kind, kinds.get(text, kind), key=_KINDS.index)
            claims.setdefault(text, []).append(number)
    return {Phrase(text, kinds[text]): np.array(claims[text], np.int64) for text in sorted(claims)}


def _truth(seen: Seen, near: Int64[np.ndarray, " things"]) -> UInt8[np.ndarray, "u k claims"]:
    """Words under the region, contexts, and things that the photograph shows, but not under the region."""
    beside = seen.shown[..., near] * (seen.hits[..., near] < BESIDE)
    return np.concatenate([np.rint(255 * truth).astype(np.uint8) for truth in (*seen[:2], beside)], axis=2)
