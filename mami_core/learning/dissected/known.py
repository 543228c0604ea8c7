"""Class-score units of ImageNet classifiers: what they look for is known, it is their class."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from mami_core.learning.dissected.choose import COARSE, Demands
from mami_core.learning.dissected.locating import NUM_CLASSES
from mami_core.learning.dissected.phrases import Finding, Words
from mami_core.learning.dissected.table import ConceptTable
from mami_core.learning.dissected.units import Observed, findings
from mami_core.learning.dissected.words import Lexicon, Word


def class_findings(
    observed: Observed, words: Words, lexicon: Lexicon, kinds: Sequence[Sequence[int]], demands: Demands
) -> list[Finding]:
    """For every class of ImageNet in order: its name, and the word for its kind that says most of its exemplars.

    The photographs need not show the class itself: what drives its unit then are the things most like it.
    """
    table = observed.table
    found = findings(observed, words, depth=1.0, demands=demands)
    support = _support(observed)
    named = []
    for number, finding in enumerate(found):
        # Colours are of whole photographs here, grass and sky included.
        name = lexicon.plural(lexicon.class_name(number))
        often = [word for word in kinds[number] if support[number, word] > 0.25] or kinds[number][:1]
        best = max(often, key=lambda word: support[number, word] / (0.01 + support[:, word].mean()), default=None)
        wider = None if best is None or table.words[best].text == name else table.words[best].text
        named.append(dataclasses.replace(finding, nouns=(name,), wider=wider, colours=(), low=()))
    return named


def kinds_of_classes(table: ConceptTable, lexicon: Lexicon) -> list[list[int]]:
    """For every class of ImageNet the table's words for its kind, the narrowest first.

    They are true of what drives the class's unit, whatever was annotated there: it is what is most like the class.
    """
    classes = [len(lexicon.classes(word)) for word in table.words]
    return [
        sorted(groups(table, lexicon.words_of_class(number)), key=lambda word: (classes[word], word))
        for number in range(NUM_CLASSES)
    ]


def groups(table: ConceptTable, words: Iterable[Word]) -> list[int]:
    """The table's numbers of those words that stand for groups of things that have something in common."""
    return [
        table.numbers[word]
        for word in words
        if word in table.numbers and word.kind == "thing" and not word.own and word.text not in COARSE
    ]


def _support(observed: Observed) -> np.ndarray:
    """The share of each unit's exemplars whose photographs show each word."""
    present = observed.exemplars.present
    shown = (observed.table.areas > 0.01)[np.maximum(observed.exemplars.photographs, 0)] * present[..., None]
    return shown.sum(1) / np.maximum(present.sum(1), 1)[:, None]
