"""Captions × descriptions → corpus BLEU, from counts that shards add exactly.

BLEU is Papineni et al., ACL 2002: the brevity penalty times the geometric mean of the clipped precisions of 1-grams
to 4-grams, with counts and lengths summed over the whole corpus first. Every description of every neuron counts; no
list is cut to the length of another's.

Smoothing is "method 2" of Chen and Cherry, WMT 2014, after Lin and Och, COLING 2004: one is added to the numerators
and denominators from 2-grams on. On thousands of neurons it changes nothing that is printed (0.1 of 100); on a few
dozen it keeps one missing 4-gram from making the whole score zero. As in nltk, a caption shorter than n words counts
as one n-gram that nobody else has.
"""

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from mami_core.errors import DescriptionsError

MAX_ORDER = 4
"""The longest n-grams that are compared."""

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
_APOSTROPHES = str.maketrans({"\u2019": "'", "\u02bc": "'", "\uff07": "'"})


def words(text: str) -> list[str]:
    """What BLEU compares: lower-case words and numbers, cut exactly as the captioner's vocabulary cuts them.

    Stated again here because scoring needs no captioner; a test holds the two together.
    """
    return _WORD.findall(unicodedata.normalize("NFC", text).translate(_APOSTROPHES).lower())


@dataclass(frozen=True, slots=True)
class BleuCounts:
    """All that BLEU needs to know of any number of captions. Merging is exact, in any order."""

    matches: tuple[int, ...] = (0,) * MAX_ORDER
    """By order: n-grams of the captions that a description of the same neuron has too, clipped at its count."""
    totals: tuple[int, ...] = (0,) * MAX_ORDER
    """By order: n-grams of the captions, at least one a caption, as nltk counts."""
    num_caption_words: int = 0
    num_description_words: int = 0
    """Summed over captions: the length of the description whose length is closest, the shorter one on a tie."""

    @staticmethod
    def of(caption: str, descriptions: Sequence[str], *, cut: Callable[[str], Sequence[str]] = words) -> "BleuCounts":
        """The counts of one caption against all descriptions of its neuron, `cut` into words.

        Raises:
            DescriptionsError: if there is no description to compare with.
        """
        if not descriptions:
            raise DescriptionsError(f"BLEU: expected at least one description to compare {caption!r} with, got none.")
        # Only here and below: nltk brings scikit-learn with it, two seconds of any process that scores nothing.
        from nltk.translate.bleu_score import closest_ref_length, modified_precision

        candidate, references = cut(caption), [cut(description) for description in descriptions]
        precisions = [modified_precision(references, candidate, order) for order in range(1, MAX_ORDER + 1)]
        return BleuCounts(
            tuple(precision.numerator for precision in precisions),
            tuple(precision.denominator for precision in precisions),
            len(candidate),
            closest_ref_length(references, len(candidate)),
        )

    def merge(self, other: "BleuCounts") -> "BleuCounts":
        """The counts of both sets of captions together."""
        return BleuCounts(
            tuple(a + b for a, b in zip(self.matches, other.matches, strict=True)),
            tuple(a + b for a, b in zip(self.totals, other.totals, strict=True)),
            self.num_caption_words + other.num_caption_words,
            self.num_description_words + other.num_description_words,
        )

    def score(self, *, smoothed: bool = True) -> float:
        """Corpus BLEU from 0 to 100; 0 where there is no caption or no word in common.

        Without smoothing it is nltk's, and also 0 where longer n-grams have nothing in common.
        """
        from nltk.translate.bleu_score import brevity_penalty

        if not all(self.matches[: 1 if smoothed else MAX_ORDER]):
            return 0.0
        extra = _ADDED if smoothed else (0,) * MAX_ORDER
        logs = (
            math.log((m + added) / (t + added)) for m, t, added in zip(self.matches, self.totals, extra, strict=True)
        )
        penalty = brevity_penalty(self.num_description_words, self.num_caption_words)
        return 100 * penalty * math.exp(math.fsum(log / MAX_ORDER for log in logs))


_ADDED = (0,) + (1,) * (MAX_ORDER - 1)
"""By order: what smoothing adds to numerator and denominator."""


def merged(counts: Iterable[BleuCounts]) -> BleuCounts:
    """All the counts together; those of nothing at all if there are none."""
    total = BleuCounts()
    for one in counts:
        total = total.merge(one)
    return total


def bleu(captions: Sequence[str], descriptions: Sequence[Sequence[str]]) -> float:
    """Corpus BLEU, 0 to 100, of one caption a neuron against all descriptions of the same neuron."""
    return merged(BleuCounts.of(c, d) for c, d in zip(captions, descriptions, strict=True)).score()
