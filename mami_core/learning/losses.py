"""What training makes small, as sums, so that the parts of a batch on several workers add up to the whole."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from mami_core.captions.vocabulary import PAD


def word_loss(
    log_probs: Float[Tensor, "targets length vocabulary"], words: Int64[Tensor, "targets length"], smoothing: float = 0
) -> Float[Tensor, ""]:
    """−Σ log p(word), over all words of all targets, stop words included and padding left out.

    With `smoothing` ε a word's term is (1 − ε) log p(word) + ε · the mean of log p over the vocabulary (Szegedy et al.,
    2016, arXiv 1512.00567): no word is to be thought impossible.
    """
    hard = F.nll_loss(log_probs.flatten(0, 1), words.flatten(), ignore_index=PAD, reduction="sum")
    if not smoothing:
        return hard
    return (1 - smoothing) * hard - smoothing * (log_probs.mean(-1) * (words != PAD)).sum()


def attention_loss(
    weights: Mapping[str, Float[Tensor, "targets length k"]],
    words: Int64[Tensor, "targets length"],
    present: Bool[Tensor, "targets k"],
) -> Float[Tensor, ""]:
    """Σ over targets of the mean over exemplars s of (1 − Σ_t a_ts)², averaged over the attentions.

    "Doubly stochastic" attention (Xu et al., 2015, arXiv 1502.03044, eq. 14): every exemplar should be looked at once
    in the course of a description. Words that are padding look at nothing.
    """
    said = (words != PAD)[:, :, None]
    num_present = present.sum(1)
    losses = [(((1 - (looks * said).sum(1)) ** 2 * present).sum(1) / num_present).sum() for looks in weights.values()]
    return torch.stack(losses).mean()
