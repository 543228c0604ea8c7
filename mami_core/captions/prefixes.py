"""Scores of given captions under the language model.

The captions of one neuron mostly share their first words, and those of neighbouring neurons whole captions. The
language model sees no image, so what it says of a beginning holds for every caption that begins so. On a CPU, each
distinct beginning is computed once. An accelerator has all captions computed side by side sooner than it is told who
shares what.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mami_core.captions.beam import MIN_ROWS
from mami_core.captions.language_model import LanguageModel
from mami_core.captions.packing import ROWS_TOGETHER, on_cpu
from mami_core.captions.vocabulary import PAD, START

_CHUNK = 1024
"""Captions scored together: bounds the memory."""


def log_p_language(
    language_model: LanguageModel, words: Int64[Tensor, "captions length"], *, padding: int = PAD
) -> Float[Tensor, " captions"]:
    """How likely every caption is by itself: the sum over its words, the stop word included, padding not.

    `padding` is the number that stands for it: one that is no word's, where the padding word may be said like others.
    """
    if len(words) and not on_cpu(language_model):
        return side_by_side(language_model, words, padding)
    # Sorted, so that captions with the same beginning fall into one chunk.
    distinct, number = words.unique(dim=0, return_inverse=True)
    scores = [_chunk_log_p(language_model, chunk, padding) for chunk in distinct.split(_CHUNK)]
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


def levels(words: Int64[Tensor, "captions length"], padding: int = PAD) -> Iterator[Level]:
    """The tree of the captions' beginnings, shortest first. A caption ends before its first padding."""
    num_words = max(int(words.max()), START) + 1
    going, known_by = torch.arange(len(words)), torch.full((len(words),), START)
    for position in range(words.shape[1]):
        still = words[going, position] != padding
        going = going[still]
        if not len(going):
            return
        # A beginning is known by its parent and its last word, packed into one number.
        distinct, beginning = known_by[still].unique(return_inverse=True)
        following = words[going, position]
        yield Level(distinct // num_words, distinct % num_words, going, beginning, following)
        known_by = beginning * num_words + following


def side_by_side(
    language_model: LanguageModel, words: Int64[Tensor, "captions length"], padding: int = PAD
) -> Float[Tensor, " captions"]:
    """`log_p_language`, all captions at once, the longest first: those that have ended leave from the end."""
    there = (words != padding).long().cumprod(1).bool()  # a caption ends before its first padding
    words = words.where(there, PAD)  # a word whatever `padding` is: what it gives is not counted
    order = there.sum(1).argsort(descending=True, stable=True)
    words, there, last = words[order], there[order], words.new_full((len(words),), START)
    state, total = language_model.start(len(words)), torch.zeros(len(words), device=words.device)
    for position, going in enumerate(there.sum(0).tolist()):
        if not going:
            break
        # Whole products, of which each has a fixed number of rows anyway.
        rows = min(len(words), -(-going // ROWS_TOGETHER) * ROWS_TOGETHER)
        now = words[:rows, position]
        log_probs, state = language_model.step(state.first(rows), last[:rows])
        total[:rows] += log_probs.gather(1, now[:, None])[:, 0].masked_fill(~there[:rows, position], 0)
        last = now
    return torch.empty_like(total).scatter_(0, order, total)


def _chunk_log_p(
    language_model: LanguageModel, words: Int64[Tensor, "captions length"], padding: int
) -> Float[Tensor, " captions"]:
    device = language_model.embedding.weight.device
    state, total = language_model.start(1), torch.zeros(len(words), device=device)
    for level in levels(words.cpu(), padding):
        # At least so many rows: the bits of a product's row then do not depend on how many there are.
        filling = (0, max(0, MIN_ROWS - len(level.last)))
        parents = torch.nn.functional.pad(level.parents, filling).to(device)
        last = torch.nn.functional.pad(level.last, filling).to(device)
        log_probs, state = language_model.step(state.reorder(parents), last)
        total[level.captions.to(device)] += log_probs[level.beginning.to(device), level.following.to(device)]
    return total
