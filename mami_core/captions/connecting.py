"""The words of English that connect others and say nothing by themselves.

Of 9,378 descriptions of ResNet-152's neurons by people, 0.2 % end in one of these words, 0.1 % say any word twice in a
row, and 3 % say another word than these twice at all.
"""

from collections.abc import Sequence

CONNECTING = frozenset(
    (
        *("a", "an", "the", "its", "his", "her", "their", "some"),
        *("and", "or", "but", "nor", "as", "than", "that", "which", "who", "whose"),
        *("of", "in", "on", "at", "to", "with", "without", "within", "by", "for", "from", "into", "onto", "over"),
        *("under", "near", "behind", "between", "among", "through", "along", "against", "beside", "around", "above"),
        *("below", "across", "about", "like", "next"),
        *("is", "are", "was", "were", "be", "being", "been", "has", "have"),
    )
)
"""Articles, conjunctions, prepositions and auxiliary verbs. Not those that close a phrase too, as "outside" does."""


def numbers_of(words: Sequence[str], *, first: int) -> tuple[int, ...]:
    """The numbers of the connecting words in a list whose first word has number `first`."""
    return tuple(number for number, word in enumerate(words, start=first) if word in CONNECTING)
