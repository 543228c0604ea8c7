"""Losses against plain loops, and that the parts of a batch add up."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mami_core.captions.vocabulary import PAD
from mami_core.learning.losses import attention_loss, word_loss


def some(seed: int, targets: int, length: int, k: int) -> tuple[Tensor, Tensor, dict[str, Tensor], Tensor]:
    """Log-probabilities, words (padded at the end), attention weights, and which exemplars are present."""
    generator = torch.Generator().manual_seed(seed)
    log_probs = torch.randn(targets, length, 7, generator=generator).log_softmax(-1)
    words = torch.randint(1, 7, (targets, length), generator=generator)
    ends = torch.randint(1, length + 1, (targets, 1), generator=generator)
    words = torch.where(torch.arange(length) < ends, words, PAD)
    present = torch.rand(targets, k, generator=generator) < 0.7
    present[:, 0] = True
    scores = torch.randn(2, targets, length, k, generator=generator).masked_fill(~present[:, None], -torch.inf)
    return log_probs, words, dict(zip("ab", scores.softmax(-1), strict=True)), present


SIZES = {"seed": st.integers(0, 99), "targets": st.integers(1, 5), "length": st.integers(1, 6), "k": st.integers(1, 4)}


@given(**SIZES)
def test_losses_are_those_of_a_loop(seed: int, targets: int, length: int, k: int) -> None:
    log_probs, words, weights, present = some(seed, targets, length, k)
    expected_words, expected_looks = 0.0, 0.0
    for row in range(targets):
        said = [at for at in range(length) if words[row, at] != PAD]
        expected_words -= sum(log_probs[row, at, words[row, at]].item() for at in said)
        for looks in weights.values():
            there = [s for s in range(k) if present[row, s]]
            missed = [(1 - sum(looks[row, at, s].item() for at in said)) ** 2 for s in there]
            expected_looks += sum(missed) / len(there) / len(weights)
    assert word_loss(log_probs, words).item() == pytest.approx(expected_words, rel=1e-5)
    assert attention_loss(weights, words, present).item() == pytest.approx(expected_looks, rel=1e-4, abs=1e-5)


@given(**SIZES)
def test_smoothed_labels_are_those_of_torch(seed: int, targets: int, length: int, k: int) -> None:
    log_probs, words, _, _ = some(seed, targets, length, k)
    expected = F.cross_entropy(
        log_probs.flatten(0, 1), words.flatten(), ignore_index=PAD, label_smoothing=0.1, reduction="sum"
    )
    torch.testing.assert_close(word_loss(log_probs, words, 0.1), expected, rtol=1e-4, atol=1e-4)


@given(**SIZES, cut=st.integers(0, 5))
def test_the_parts_of_a_batch_add_up(seed: int, targets: int, length: int, k: int, cut: int) -> None:
    log_probs, words, weights, present = some(seed, targets, length, k)

    def both(rows: slice) -> Tensor:
        looks = {name: found[rows] for name, found in weights.items()}
        return torch.stack([word_loss(log_probs[rows], words[rows]), attention_loss(looks, words[rows], present[rows])])

    torch.testing.assert_close(both(slice(0, cut)) + both(slice(cut, None)), both(slice(None)), rtol=1e-5, atol=1e-5)


def test_looking_once_at_every_exemplar_costs_nothing() -> None:
    words, present = torch.tensor([[4, 5, 2, PAD]]), torch.tensor([[True, True, True, False]])
    once = torch.eye(4)[None]  # the padding looks at the absent exemplar
    assert attention_loss({"a": once}, words, present).item() == 0
    assert attention_loss({"a": once[:, [0, 0, 1, 3]]}, words, present).item() == pytest.approx((1 + 0 + 1) / 3)
