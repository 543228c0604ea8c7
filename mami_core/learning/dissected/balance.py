"""No description so common that a captioner learns to say it of everything."""

from collections import Counter
from collections.abc import Hashable, Mapping
from typing import TypeVar

import numpy as np

Key = TypeVar("Key", bound=Hashable)

_FEWEST = 20
"""How often anything may be said."""


def balanced(said: Mapping[Key, tuple[str, ...]], share: float, rng: np.random.Generator) -> dict[Key, tuple[str, ...]]:
    """The same neurons with their descriptions, none of which is more than about this share of all.

    Of a description that is said more often, a random choice stays; neurons that have none left are left out.
    """
    pairs = [(key, text) for key, texts in said.items() for text in texts]
    most = max(_FEWEST, int(share * len(pairs)))
    counts: Counter[str] = Counter()
    kept: dict[Key, set[str]] = {}
    for number in rng.permutation(len(pairs)).tolist():
        key, text = pairs[number]
        if counts[text] < most:
            counts[text] += 1
            kept.setdefault(key, set()).add(text)
    return {key: tuple(text for text in texts if text in kept[key]) for key, texts in said.items() if key in kept}
