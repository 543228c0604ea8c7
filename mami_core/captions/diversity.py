"""Several captions of a neuron that say different things, not the same one in other words."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from mami_core.captions.vocabulary import PAD, STOP


def different(
    words: Int64[Tensor, "neurons beams length"],
    scores: Float[Tensor, "neurons beams"],
    *,
    num_kept: int,
    max_overlap: float,
) -> Bool[Tensor, "neurons beams"]:
    """Which `num_kept` captions of each neuron to keep, at most.

    The best, then each that shares at most `max_overlap` of its words with every kept one: of the distinct words that
    either says, so many are in both.
    """
    order = scores.sort(dim=1, descending=True, stable=True).indices.tolist()
    keep = torch.zeros_like(scores, dtype=torch.bool, device="cpu")
    for row, (captions, best_first) in enumerate(zip(words.tolist(), order, strict=True)):
        kept: list[set[int]] = []
        for beam_number in best_first:
            said = set(captions[beam_number]) - {PAD, STOP}
            if all(len(said & other) <= max_overlap * len(said | other) for other in kept):
                kept.append(said)
                keep[row, beam_number] = True
            if len(kept) == num_kept:
                break
    return keep.to(scores.device)
