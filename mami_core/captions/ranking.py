"""Beams → the best captions: both terms of mutual information, put together, and the evidence for each caption.

log p(c | E) comes from the search, log p(c) from the search or from the language model now.
"""

import functools
import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mami_core.captions.decode_config import DecodeConfig
from mami_core.captions.diversity import different
from mami_core.captions.evidence import Weighed
from mami_core.captions.language_model import LanguageModel
from mami_core.captions.prefixes import log_p_language
from mami_core.captions.quantity import first_of_same, said_of_so_many
from mami_core.captions.vocabulary import PAD, STOP, Vocabulary

Ranked = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""Of the best captions of every neuron: words, scores, log p(c|E), log p(c) and support; NaN where one is not known."""


class Found(NamedTuple):
    """The beams of some neurons."""

    words: Int64[Tensor, "neurons beams length"]
    log_p_caption: Float[Tensor, "neurons beams"]
    log_p_language: Float[Tensor, "neurons beams"] | None
    """Where the search had to know it."""
    evidence: Weighed | None
    """How well the exemplars bear them out, where that is known."""


def ranked(
    vocabulary: Vocabulary,
    language_model: LanguageModel | None,
    found: Found,
    config: DecodeConfig,
) -> Ranked:
    """The best `num_captions` of every neuron's beams, with their scores.

    Where evidence counts, it also says whether a caption begins with "often" (`quantity`): its scores are those of the
    words that the search found.
    """
    words, log_p_caption, log_p_lm, evidence = found
    # Where the padding word may be said, what follows a caption needs a number that is no word's.
    padding = PAD
    if config.rules == "milan":
        padding = len(vocabulary)
        words = _padded(words, padding)
    if config.strategy == "rerank" and language_model is not None:
        log_p_lm = _language(language_model, words, padding)
    scores = log_p_caption if log_p_lm is None else log_p_caption - config.lm_weight * log_p_lm
    divisors = _divisors((words != padding).sum(-1), config)
    scores = scores / divisors
    said = words
    if evidence is not None and config.evidence_weight:
        scores = scores + config.evidence_weight * evidence.worth
        if padding == PAD:
            said = said_of_so_many(vocabulary, words, evidence.support)
    if config.window is not None:
        likelihood = log_p_caption / divisors
        scores = scores.masked_fill(likelihood < likelihood.amax(1, keepdim=True) - config.window, -math.inf)
    if said is not words:
        scores = scores.masked_fill(~first_of_same(vocabulary, words, scores), -math.inf)
    if config.max_overlap < 1:
        scores = scores.masked_fill(
            ~different(
                said.masked_fill(said == padding, PAD),
                scores,
                num_kept=config.num_captions,
                max_overlap=config.max_overlap,
            ),
            -math.inf,
        )
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    scores, order = scores[:, : config.num_captions], order[:, : config.num_captions]
    if log_p_lm is not None:
        log_p_lm = log_p_lm.gather(1, order)
    elif language_model is not None:
        log_p_lm = _language(language_model, words.take_along_dim(order[..., None], 1), padding)
    else:
        log_p_lm = torch.full_like(scores, math.nan)
    support = torch.full_like(scores, math.nan) if evidence is None else evidence.support.gather(1, order)
    return said.take_along_dim(order[..., None], 1), scores, log_p_caption.gather(1, order), log_p_lm, support


def _divisors(num_words: Int64[Tensor, "neurons beams"], config: DecodeConfig) -> Float[Tensor, "neurons beams"]:
    return _by_length(config.length_penalty, config.max_length, num_words.device)[num_words]


@functools.lru_cache(maxsize=8)
def _by_length(penalty: float, max_length: int, device: torch.device) -> Float[Tensor, " lengths"]:
    # Not Tensor.pow: on a CPU its last bit depends on the element's place, and so on who else is in the batch.
    return torch.tensor([max(count, 1) ** penalty for count in range(max_length + 1)], device=device)


def _padded(words: Int64[Tensor, "neurons beams length"], padding: int) -> Int64[Tensor, "neurons beams length"]:
    """The captions with this padding after their first stop word."""
    is_stop = (words == STOP).long()
    return words.masked_fill(is_stop.cumsum(-1) - is_stop > 0, padding)


def _language(
    language_model: LanguageModel, words: Int64[Tensor, "neurons beams length"], padding: int
) -> Float[Tensor, "neurons beams"]:
    return log_p_language(language_model, words.flatten(0, 1), padding=padding).view(words.shape[:2])
