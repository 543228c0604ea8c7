"""How true the phrases of captions are of each exemplar: what a captioner's evidence is learned from.

A phrase is as true as the truest of the words that are said so: "black" where the region is black, and where black
lines are. A name of its own lies on few photographs, and all that could be learned of "dalmatians" is that there are
none: so it is also as true as the word for its kind, "dogs", and which kind of dog it is, the captioner knows better.

Axes: U units, K exemplars, C claims (words under the region, contexts, things near it), P phrases.
"""

import numpy as np
from jaxtyping import Int64, UInt8

from mami_core.captions.evidence import Phrase
from mami_core.learning.dissected.choose import COARSE
from mami_core.learning.dissected.phrases import Words, around, said
from mami_core.learning.dissected.table import ConceptTable
from mami_core.learning.dissected.units import BESIDE, Observed, Seen, is_near

_KINDS = ("noun", "place", "context", "look", "surface", "colour", "size", "tone", "turn", "side")
"""A phrase is of the first kind of which any word makes it."""


def phrases_of(table: ConceptTable) -> tuple[Phrase, ...]:
    """Every phrase that captions say of what a table knows, in the order of their texts; each text once."""
    return tuple(_claims(table))


def truth_of(observed: Observed, words: Words) -> UInt8[np.ndarray, "u k phrases"]:
    """How true each of `phrases_of` is of each exemplar, from 0 to 255; 0 where there is no exemplar."""
    kinds = _kinds_of(observed.table, words)
    claims = [[*those, *(kinds[c] for c in those if c in kinds)] for those in _claims(observed.table).values()]
    flat, starts = np.concatenate(claims), np.cumsum([0, *map(len, claims[:-1])])
    near = np.flatnonzero(is_near(observed.table.words))
    return np.concatenate(
        [np.maximum.reduceat(_truth(seen, near)[..., flat], starts, axis=2) for seen in observed.in_blocks]
    )


def _claims(table: ConceptTable) -> dict[Phrase, list[int]]:
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
    return {Phrase(text, kinds[text]): claims[text] for text in sorted(claims)}


def _kinds_of(table: ConceptTable, words: Words) -> dict[int, int]:
    """For names of their own the narrowest word for their kind, where there is one: that of the fewest photographs."""
    counts, areas = (table.areas > 0).sum(0), table.areas.sum(0)
    is_kind = is_near(table.words)
    is_kind &= ~np.isin([word.text for word in table.words], COARSE)
    wider = {name: np.flatnonzero(words.wider[name] & is_kind) for name, word in enumerate(table.words) if word.own}
    return {name: min(of.tolist(), key=lambda w: (counts[w], areas[w])) for name, of in wider.items() if len(of)}


def _truth(seen: Seen, near: Int64[np.ndarray, " things"]) -> UInt8[np.ndarray, "u k claims"]:
    """Words under the region, contexts, and things that the photograph shows, but not under the region."""
    beside = seen.shown[..., near] * (seen.hits[..., near] < BESIDE)
    return np.concatenate([np.rint(255 * truth).astype(np.uint8) for truth in (*seen[:2], beside)], axis=2)
