"""Concept maps: where in a photograph each word is true.

Axes: W words of a photograph, G × G cells of its centred square (`features.looks.GRID`); S words of `SEEN`, whose maps
have small cells (`features.looks.FINE`), one bit each.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from mami_core.features.forms import FORMS
from mami_core.features.looks import COLOURS, GRID, LOOKS, SIDE, look_maps
from mami_core.learning.dissected.photographs import Annotation, Photograph, words_said
from mami_core.learning.dissected.words import Lexicon, Word

Cells = Float[np.ndarray, "g g"]
Locate = Callable[[Sequence[int]], Cells]
"""ImageNet classes → how much each cell of the photograph looks like one of them, from 0 to 1 (`locating.py`)."""

SEEN = (*(Word(name, "colour") for name in COLOURS), *(Word(name, "low") for name in LOOKS))
"""Words that need no annotation, as `look_maps` has them."""
OF_REGIONS = tuple(Word(name, "low") for name in FORMS)
"""Words for what form regions have."""
_OBJECT, _HEAD = 0.35, 0.7
"""Shares of the range of a class's activation map above which there is the object, and its most telling part: on
animals of ImageNet this is their head."""
_SAID = 0.4
"""Share of a photograph's sentences that must speak of a thing."""


def square(picture: Image.Image, side: int = SIDE) -> UInt8[np.ndarray, "side side 3"]:
    """The centred square of a photograph, as networks see it."""
    picture = picture.convert("RGB")
    short = min(picture.size)
    left, top = (picture.width - short) // 2, (picture.height - short) // 2
    box = (left, top, left + short, top + short)
    return np.asarray(picture.resize((side, side), Image.Resampling.BILINEAR, box))


class Maps(NamedTuple):
    """Where in one photograph words are true."""

    named: dict[Word, Cells]
    """The share of each cell for which each word is true, of words that are true anywhere."""
    seen: UInt8[np.ndarray, "s bytes"]
    """Where each of `SEEN` is true, as `numpy.packbits` packs maps, flattened."""


def concept_maps(
    photograph: Photograph,
    pixels: UInt8[np.ndarray, "side side 3"],
    size: tuple[int, int],
    lexicon: Lexicon,
    locate: Locate | None,
    said: frozenset[str] = frozenset(),
    detected: Mapping[Word, Cells] | None = None,
) -> Maps:
    """Where in a photograph words are true: those of its annotations, and those that its pixels tell.

    Args:
        photograph: With its annotations.
        pixels: Its centred square.
        size: Its own width and height.
        lexicon: What names mean.
        locate: Finds a class that the annotations name but do not place; without it, such a thing is everywhere.
        said: Names to look for in the photograph's sentences.
        detected: Words that detectors looked for, and where they are true: nowhere else, whatever was annotated.
    """
    found: dict[Word, Cells] = {}
    for annotation in photograph.annotations:
        if annotation.is_placed:
            cells = cells_of(annotation.inside(*size))
            for word in _words(annotation, lexicon):
                found[word] = np.maximum(found.get(word, 0), cells)
    for word in _unplaced(photograph, lexicon, said):
        if word not in found and (cells := _located(word, lexicon, locate)) is not None:
            found[word] = cells
    found |= _heads(found, lexicon, locate)
    found |= detected or {}
    named = {word: cells for word, cells in found.items() if cells.any()}
    seen = look_maps(torch.from_numpy(np.moveaxis(pixels, 2, 0)[None].copy()))[0]
    return Maps(named, np.packbits(seen.flatten(1).numpy(), axis=1))


def places() -> dict[Word, Cells]:
    """Places in the picture, the same in every photograph."""
    down, across = np.mgrid[:GRID, :GRID] / (GRID - 1)
    aside, above = (np.minimum(line, 1 - line) for line in (across, down))
    found = {
        "top": down < 0.33,
        "bottom": down > 0.67,
        "left": across < 0.33,
        "right": across > 0.67,
        "centre": np.maximum(abs(down - 0.5), abs(across - 0.5)) < 0.25,
        "borders": np.minimum(aside, above) < 0.1,
        "corners": np.maximum(aside, above) < 0.2,
    }
    return {Word(name, "place"): cells.astype(np.float32) for name, cells in found.items()}


def _words(annotation: Annotation, lexicon: Lexicon) -> list[Word]:
    names = enumerate(annotation.names)
    return [word for i, name in names for word in lexicon.words(name, annotation.wordnet if i == 0 else None)]


def _unplaced(photograph: Photograph, lexicon: Lexicon, said: frozenset[str]) -> list[Word]:
    """Words that are true of the photograph, without a place."""
    whole = [annotation for annotation in photograph.annotations if not annotation.is_placed]
    words = [word for annotation in whole for word in _words(annotation, lexicon)]
    phrases = [phrase for annotation in whole for phrase in annotation.phrases]
    counts = Counter(name for phrase in phrases for name in set(words_said([phrase], said)))
    often = [name for name, count in counts.items() if count >= max(1, _SAID * len(phrases))]
    # A name that only a sentence mentions is no word of its own: what is said in passing is seldom what a neuron sees.
    words += [word for name in often for word in lexicon.words(name) if word.kind == "thing" and not word.own]
    return list(dict.fromkeys(words))


def _located(word: Word, lexicon: Lexicon, locate: Locate | None) -> Cells | None:
    """Where a word is that the annotations do not place; none where nobody can tell."""
    if word.kind in ("scene", "material", "stuff") or locate is None:
        return np.ones((GRID, GRID), np.float32)
    classes = lexicon.classes(word)
    if classes:
        return (locate(classes) > _OBJECT).astype(np.float32)
    return np.ones((GRID, GRID), np.float32) if word.kind == "look" or word.own else None


def _heads(found: Mapping[Word, Cells], lexicon: Lexicon, locate: Locate | None) -> dict[Word, Cells]:
    if locate is None:
        return {}
    heads: dict[Word, Cells] = {}
    for word, cells in found.items():
        head = lexicon.head(word)
        if head is not None and head not in heads:
            heads[head] = ((locate(lexicon.classes(word)) > _HEAD) & (cells > 0)).astype(np.float32)
    return heads


def cells_of(inside: Bool[np.ndarray, "height width"]) -> Cells:
    """The share of each cell of the centred square that lies inside."""
    height, width = inside.shape
    short = min(height, width)
    left, top = (width - short) // 2, (height - short) // 2
    cut = Image.fromarray(inside[top : top + short, left : left + short].astype(np.float32))
    return np.asarray(cut.resize((GRID, GRID), Image.Resampling.BOX))
