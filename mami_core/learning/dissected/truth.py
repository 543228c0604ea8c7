"""How true the phrases of captions are of each exemplar: what a captioner's evidence is learned from.

A phrase is as true as the truest of the statements that are made so: "black" where the region is black, and where
black lines are. The name of an ImageNet class is true of what drives the class's score, whatever was annotated there:
it is what is most like the class. Another name of its own lies on few photographs, and all that could be learned of
"plums" is that there are none: so it is also as true as the word for its kind, "fruit", and which fruit it is, the
captioner knows better.

Axes: U units, K exemplars, P phrases, C statements (words under the region, contexts, things near it, classes).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, UInt8

from mami_core.captions.evidence import Phrase
from mami_core.learning.dissected.known import groups
from mami_core.learning.dissected.locating import NUM_CLASSES
from mami_core.learning.dissected.maps import OF_REGIONS, SEEN
from mami_core.learning.dissected.phrases import around, said
from mami_core.learning.dissected.table import ConceptTable
from mami_core.learning.dissected.units import BESIDE, Observed, Seen, is_near
from mami_core.learning.dissected.words import Lexicon

_KINDS = ("noun", "place", "context", "look", "surface", "colour", "size", "tone", "turn", "side")
"""A phrase is of the first kind of which any word makes it."""
_OF_PIXELS = _KINDS[_KINDS.index("look") :]
"""Kinds of phrases that pixels alone make true."""
_HELD, _OFTEN, _ALWAYS = 0.9, 0.25, 0.95
"""A photograph holds a thing in its kind if the kind covers so much of it; shares of the photographs of a name in which
that must be so of a kind that WordNet knows, and of one that only these photographs tell."""


@dataclass(frozen=True, slots=True, eq=False)
class Phrasebook:
    """Every phrase that captions say of what a table knows, in the order of their texts; each text once."""

    phrases: tuple[Phrase, ...]
    statements: tuple[tuple[int, ...], ...]
    """For each phrase what is stated so, numbered as `_truth` has it."""
    classes: range
    """The statements that an exemplar drives the score of an ImageNet class; none where no scores are described."""


def phrasebook(table: ConceptTable, lexicon: Lexicon, *, classes: bool) -> Phrasebook:
    """The phrases of a table's words; with the names of all ImageNet `classes`, by which class scores are described."""
    near = np.flatnonzero(is_near(table.words))
    beside = (*table.contexts, *(table.words[word].text for word in near))
    told = [*map(said, table.words), *((Phrase(around(name), "context"),) for name in beside)]
    of_classes = range(len(told), len(told) + NUM_CLASSES * classes)
    names = [lexicon.plural(lexicon.class_name(number)) for number in range(len(of_classes))]
    told += [(Phrase(name, "noun"),) for name in names]
    kinds: dict[str, str] = {}
    statements: dict[str, list[int]] = {}
    for number, ways in enumerate(told):
        for text, kind in ways:
            kinds[text] = min(kind, kinds.get(text, kind), key=_KINDS.index)
            statements.setdefault(text, []).append(number)
    for name, kind in _kinds_of_names(table, lexicon).items():
        if (text := table.words[name].text) not in names:
            statements[text].append(kind)
    texts = sorted(statements)
    phrases = tuple(Phrase(text, kinds[text]) for text in texts)
    return Phrasebook(phrases, tuple(tuple(sorted(set(statements[text]))) for text in texts), of_classes)


def told_by_pixels(phrases: Sequence[Phrase], numbers: range, forms: range = range(0)) -> tuple[tuple[int, ...], ...]:
    """For each phrase the features that tell how true it is; none for phrases of what pixels do not tell by themselves.

    Args:
        phrases: Of a phrasebook.
        numbers: Which features are what pixels tell of a region; none where the features have no such.
        forms: Which are the region's forms, the same.
    """
    known = (*zip(numbers, SEEN, strict=bool(numbers)), *zip(forms, OF_REGIONS, strict=bool(forms)))
    telling: dict[str, list[int]] = {}
    for number, word in known:
        for text, _ in said(word):
            telling.setdefault(text, []).append(number)
    by_phrase = [telling.get(phrase.text, []) if phrase.kind in _OF_PIXELS else [] for phrase in phrases]
    return tuple(map(tuple, by_phrase)) if any(by_phrase) else ()


def truth_of(
    observed: Observed, book: Phrasebook, known: Sequence[Sequence[int]] = ()
) -> UInt8[np.ndarray, "u k phrases"]:
    """How true each of a book's phrases is of each exemplar, from 0 to 255; 0 where there is no exemplar.

    Args:
        observed: Exemplars with what is true of them.
        book: The phrases.
        known: For each unit the statements that are true of whatever drives it; for none where nothing is known.
    """
    flat, starts = np.concatenate(book.statements), np.cumsum([0, *map(len, book.statements[:-1])])
    near = np.flatnonzero(is_near(observed.table.words))
    present, units, found = observed.exemplars.present, iter(known), []
    for seen in observed.in_blocks:
        truth = _truth(seen, near, len(book.classes))
        for truth_KC, true in zip(truth, units, strict=False):
            truth_KC[:, list(true)] = 255
        found.append(np.maximum.reduceat(truth[..., flat], starts, axis=2))
    return np.concatenate(found) * present[..., None].astype(np.uint8)


def _truth(seen: Seen, near: Int64[np.ndarray, " things"], num_classes: int) -> UInt8[np.ndarray, "u k statements"]:
    """Words under the region, contexts, things that the photograph shows, but not under the region; and no class."""
    beside = seen.shown[..., near] * (seen.hits[..., near] < BESIDE)
    shares = [np.rint(255 * truth).astype(np.uint8) for truth in (*seen[:2], beside)]
    return np.concatenate([*shares, np.zeros((*beside.shape[:2], num_classes), np.uint8)], axis=2)


def _kinds_of_names(table: ConceptTable, lexicon: Lexicon) -> dict[int, int]:
    """For the table's names of their own the narrowest word for their kind, where there is one.

    WordNet knows kinds by names alone, and may mean another monarch than the photographs show.
    """
    found: dict[int, int] = {}
    every = groups(table, table.words)
    for name in (number for number, word in enumerate(table.words) if word.own):
        areas = table.areas[table.areas[:, name] > 0]
        held = (areas >= _HELD * areas[:, [name]]).mean(0)
        known = [kind for kind in groups(table, lexicon.words(table.words[name].text)) if held[kind] >= _OFTEN]
        kind = _narrowest(table, known or [kind for kind in every if held[kind] >= _ALWAYS])
        if kind is not None:
            found[name] = kind
    return found


def _narrowest(table: ConceptTable, kinds: list[int]) -> int | None:
    """The one that the fewest photographs show."""
    # Of several the last: a name's words stand from the widest to the narrowest.
    shares = (table.areas[:, kinds] > 0).mean(0)[::-1]
    return kinds[len(kinds) - 1 - int(np.argmin(shares))] if kinds else None
