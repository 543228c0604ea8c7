"""Scores of given captions under the language model, each distinct beginning computed once.

The captions of one neuron mostly share their first words, and those of neighbouring neurons whole captions. The
language model sees no image, so what it says of a beginning holds for every caption that begins so.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mami_core.captions.beam import MIN_ROWS
from mami_core.captions.language_model import LanguageModel
from mami_core.captions.vocabulary import PAD, START

_CHUNK = 1024
"""Captions scored together: bounds the memory."""


def log_p_language(
    language_model: LanguageModel, words: Int64[Tensor, "captions length"]
) -> Float[Tensor, " captions"]:
    """How likely every caption is by itself: the sum over its words, the stop word included, padding not."""
    # Sorted, so that captions with the same beginning fall into one chunk.
    distinct, number = words.unique(dim=0, return_inverse=True)
    scores = [_chunk_log_p(language_model, chunk) for chunk in distinct.split(_CHUNK)]
    return torch.cat(scores)[number] if scores else language_model.embedding.weight.new_zeros(0)


@dataclass(frozen=True, slots=True)
class Level:
    """The distinct beginnings of one length, and who goes on from them."""

    parents: Int64[Tensor, " beginnings"]
    """Which beginning, one word shorter, each of them goes on from."""
    last: Int64[Tensor, " beginnings"]
    """Its last word (the start word, where it is empty)."""
    captions: Int64[Tensor, " going"]
    """The captions that have a further word,"""
    beginning: Int64[Tensor, " going"]
    """the beginning that each of them has,"""
    following: Int64[Tensor, " going"]
    """and the word that follows."""


def levels(words: Int64[Tensor, "captions length"]) -> Iterator[Level]:
    """The tree of the captions' beginnings, shortest first. A caption ends before its first padding."""
    num_words = max(int(words.max()), START) + 1
    going, known_by = torch.arange(len(words)), torch.full((len(words),), START)
    for position in range(words.shape[1]):
        still = words[going, position] != PAD
        going = going[still]
        if not len(going):
            return
        # A beginning is known by its parent and its last word, packed into one number.
        distinct, beginning = known_by[still].unique(return_inverse=True)
        following = words[going, position]
        yield Level(distinct // num_words, distinct % num_words, going, beginning, following)
        known_by = beginning * num_words + following


def _chunk_log_p(language_model: LanguageModel, words: Int64[Tensor, "captions length"]) -> Float[Tensor, " captions"]:
    device = language_model.embedding.weight.device
    state, total = language_model.start(1), torch.zeros(len(words), device=device)
    for level in levels(words.cpu()):
        # At least so many rows: the bits of a product's row then do not depend on how many there are.
        filling = (0, max(0, MIN_ROWS - len(level.last)))
        parents = torch.nn.functional.pad(level.parents, filling).to(device)
        last = torch.nn.functional.pad(level.last, filling).to(device)
        log_probs, state = language_model.step(state.reorder(parents), last)
        total[level.captions.to(device)] += log_probs[level.beginning.to(device), level.following.to(device)]
    return total
