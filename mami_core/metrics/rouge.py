"""Captions × descriptions → ROUGE-L: how much of a description's words a caption has in the same order.

Lin, 2004 ("ROUGE: A Package for Automatic Evaluation of Summaries", section 3.1): F1 of the longest common subsequence
over the lengths of both. Of several descriptions the best counts, as in google-research's `rouge_score`; over neurons
it is averaged. Words are cut as for BLEU, not stemmed.
"""

from collections.abc import Sequence
from functools import reduce

from mami_core.errors import DescriptionsError
from mami_core.metrics.bleu import words


def rouge_l(caption: str, descriptions: Sequence[str]) -> float:
    """ROUGE-L F1, from 0 to 1, of one caption against the closest of its neuron's descriptions.

    Raises:
        DescriptionsError: if there is no description to compare with.
    """
    if not descriptions:
        raise DescriptionsError(f"ROUGE: expected at least one description to compare {caption!r} with, got none.")
    said = words(caption)
    return max(_f1(said, words(description)) for description in descriptions)


def _f1(one: Sequence[str], other: Sequence[str]) -> float:
    # 2PR / (P + R) with P = common / len(one) and R = common / len(other).
    return 2 * _common(one, other) / max(len(one) + len(other), 1)


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """Words of the longest subsequence of both."""

    def row(above: list[int], word: str) -> list[int]:
        found = [0]
        for column, its in enumerate(other):
            found.append(above[column] + 1 if word == its else max(above[column + 1], found[-1]))
        return found

    return reduce(row, one, [0] * (len(other) + 1))[-1]
