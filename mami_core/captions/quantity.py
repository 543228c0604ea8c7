"""How many: what is true of about half of the exemplars is said with "often", and what is true of most without.

Axes: N neurons, B beams, L words.
"""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from mami_core.captions.vocabulary import PAD, STOP, Vocabulary

OFTEN = "often"
_MOST = 2 / 3
"""What is true of this share of the exemplars is said as it is."""
_HALF = 0.45
"""What is true of fewer is a guess, which "often" would make no truer."""


def said_of_so_many(
    vocabulary: Vocabulary,
    words: Int64[Tensor, "neurons beams length"],
    support: Float[Tensor, "neurons beams"],
) -> Int64[Tensor, "neurons beams length"]:
    """The captions, with "often" before those that are true of about half of the exemplars, and not of more.

    As people say it: "often on grass" is on grass in about half of the pictures, and a place alone is "often at the
    left side of pictures". One that has an "often" within keeps it; where there is no room for the words, or the
    vocabulary lacks "often", or nothing is known, nothing changes.
    """
    if (often := vocabulary.number(OFTEN)) is None:
        return words
    is_often_NBL = words == often
    of_some_NBL = _at_places(vocabulary, words)
    has_room_NB = of_some_NBL[..., -1] == PAD
    about_half_NB = (support >= _HALF) & (support < _MOST) & ~is_often_NBL.any(-1) & has_room_NB
    of_most_NB = (support >= _MOST) & is_often_NBL[..., 0] & (words[..., 1] != STOP)
    with_often = _with_first(often, of_some_NBL)
    return words.where(~about_half_NB[..., None], with_often).where(~of_most_NB[..., None], _without_first(words))


def first_of_same(
    vocabulary: Vocabulary, words: Int64[Tensor, "neurons beams length"], scores: Float[Tensor, "neurons beams"]
) -> Bool[Tensor, "neurons beams"]:
    """Which captions no better one says in the same words, with "often" or without; of equal scores, the one before."""
    best_first = scores.argsort(dim=1, descending=True, stable=True)
    begins_NB1 = words[..., :1] == _numbers(vocabulary, OFTEN)[0]
    sorted_NBL = words.where(~begins_NB1, _without_first(words)).take_along_dim(best_first[..., None], 1)
    same_NBB = scores.new_ones((), dtype=torch.bool)
    for word_NB in sorted_NBL.unbind(-1):  # word by word: all of them at once are length times as many numbers
        same_NBB = same_NBB & (word_NB[:, :, None] == word_NB[:, None])
    return torch.empty_like(scores, dtype=torch.bool).scatter_(1, best_first, ~same_NBB.tril(-1).any(-1))


def _at_places(
    vocabulary: Vocabulary, words: Int64[Tensor, "neurons beams length"]
) -> Int64[Tensor, "neurons beams length"]:
    """The captions, with "at" before those that are a place: "the left side of pictures", "the top of the picture"."""
    the, of, pictures, picture, at = _numbers(vocabulary, "the", "of", "pictures", "picture", "at")
    first, second, third = words[..., :-2], words[..., 1:-1], words[..., 2:]
    of_pictures_NBL = (first == of) & ((second == pictures) | (second == the) & (third == picture))
    is_place_NB = (words[..., 0] == the) & of_pictures_NBL[..., 2:4].any(-1)
    return words if at < 0 else words.where(~is_place_NB[..., None], _with_first(at, words))


def _numbers(vocabulary: Vocabulary, *words: str) -> list[int]:
    """−1 for a word that the vocabulary lacks."""
    return [-1 if (number := vocabulary.number(word)) is None else number for word in words]


def _with_first(word: int, words: Int64[Tensor, "neurons beams length"]) -> Int64[Tensor, "neurons beams length"]:
    return torch.cat([torch.full_like(words[..., :1], word), words[..., :-1]], -1)


def _without_first(words: Int64[Tensor, "neurons beams length"]) -> Int64[Tensor, "neurons beams length"]:
    return torch.cat([words[..., 1:], torch.full_like(words[..., :1], PAD)], -1)
