"""What a neuron's exemplars share: how often each word is true of their regions, against chance.

Axes: R regions, W words, P photographs, G cells of a grid, flattened, S words of `maps.SEEN`.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8

from mami_core.captions.evidence import HALF_IS_ENOUGH
from mami_core.features.forms import form_shares
from mami_core.features.looks import COLOURS, FILLING, FINE, LOOKS
from mami_core.learning.dissected.words import Word

_TIMES = np.array([1 if name in FILLING else HALF_IS_ENOUGH for name in (*COLOURS, *LOOKS)], np.float32)
"""How true each of `maps.SEEN` is of a region, against the share that it covers."""
_AT_PLACE = 1.5
"""The same of places."""
_FLOOR = 0.004
"""No word is rarer by chance than this: one hit of a word that nothing else shows proves little."""


def hits(
    regions: Float[np.ndarray, "r g"], maps: UInt8[np.ndarray, "w g"], is_thing: Float[np.ndarray, " w"]
) -> Float[np.ndarray, "r w"]:
    """How true each word of a photograph is of its regions, from 0 to 1.

    A word is true of a region that it covers by half; a thing also of a region that holds most of it.

    Args:
        regions: The share of each cell that lies in the region.
        maps: The share of each cell for which the word is true, from 0 to 255.
        is_thing: 1 for words of things, that have an extent of their own; 0 for colours, looks and places.
    """
    cells = maps.astype(np.float32) / 255
    shared = regions @ cells.T
    covered = np.minimum(2 * shared / np.maximum(regions.sum(1, keepdims=True), 1e-6), 1)
    extent = cells.sum(1)
    held = np.minimum(1.25 * shared / np.maximum(extent, 1e-6), 1) * (extent >= 0.02 * cells.shape[1])
    return np.maximum(covered, 0.8 * held * is_thing)


def seen_hits(regions: UInt8[np.ndarray, "r bytes"], maps: UInt8[np.ndarray, "s bytes"]) -> Float[np.ndarray, "r s"]:
    """The same of words that need no annotation, whose maps and regions have a bit a small cell."""
    regions_RB, maps_SB = (np.ascontiguousarray(of).view(np.uint64) for of in (regions, maps))
    shared = np.bitwise_count(regions_RB[:, None] & maps_SB).sum(2, dtype=np.float32)
    total = np.bitwise_count(regions_RB).sum(1, keepdims=True, dtype=np.float32)
    return np.minimum(_TIMES * shared / np.maximum(total, 1), 1)


def form_hits(regions: UInt8[np.ndarray, "r bytes"]) -> Float[np.ndarray, "r forms"]:
    """How true each of `features.forms.FORMS` is of regions with a bit a small cell: half of the region is enough."""
    inside = torch.from_numpy(np.unpackbits(regions, axis=1).reshape(-1, FINE, FINE)).bool()
    return (HALF_IS_ENOUGH * form_shares(inside)).clamp(max=1).numpy()


def place_hits(
    regions: Float[np.ndarray, "r g"], places: UInt8[np.ndarray, "places g"]
) -> Float[np.ndarray, "r places"]:
    """How true each place is of regions: two thirds are enough; what is half at the top is spread over the picture."""
    shared = regions @ (places.T.astype(np.float32) / 255)
    return np.minimum(_AT_PLACE * shared / np.maximum(regions.sum(1, keepdims=True), 1e-6), 1)


def surprise(support: Float[np.ndarray, " w"], chance: Float[np.ndarray, " w"], count: int) -> Float[np.ndarray, " w"]:
    """Log-likelihood ratio of how many of `count` exemplars a word is true of, against chance; 0 below it."""
    share = np.clip(support, 1e-4, 1 - 1e-4)
    expected = np.clip(chance, _FLOOR, 1 - 1e-3)
    gain = share * np.log(share / expected) + (1 - share) * np.log((1 - share) / (1 - expected))
    return np.where(share > expected, gain, 0) * count


def centred(values: Float[np.ndarray, "p n"], sources: Int64[np.ndarray, " p"]) -> Float[np.ndarray, "p n"]:
    """Columns less their mean over each source, of length 1: their product is the correlation within sources."""
    values = values.astype(np.float32).copy()
    for source in np.unique(sources):
        rows = sources == source
        values[rows] -= values[rows].mean(0)
    return values / np.maximum(np.linalg.norm(values, axis=0), 1e-6)


def depth_weight(words: Sequence[Word], depth: float) -> Float[np.ndarray, " w"]:
    """How much each word counts in a layer at this depth, from 0 at the first to 1 at the last.

    Early layers see colours and edges: that a thing lies under their regions is chance; late ones see things.
    """
    by_kind = {
        "thing": min(1.0, 0.25 + 1.3 * depth),
        "part": min(1.0, 0.3 + 1.3 * depth),
        "scene": min(1.0, 0.4 + depth),
    }
    by_kind |= {
        "colour": 1.15 - 0.7 * depth,
        "low": 1.15 - 0.75 * depth,
        "place": 0.8 - 0.3 * depth,
        "look": 0.6 + 0.4 * depth,
    }
    by_kind |= {"stuff": 0.6 + 0.4 * depth, "material": 0.5 + 0.3 * depth}
    own = max(0.0, min(1.0, 2 * depth - 0.8))
    return np.array([own if word.own else by_kind[word.kind] for word in words], np.float32)
