"""Training: what it learns from, what it restores, and that nothing depends on interruptions or on workers."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from mami_core.captions.captioner import Captioner, CaptionerConfig
from mami_core.captions.language_model import LanguageModel, LanguageModelConfig
from mami_core.captions.vocabulary import PAD, STOP, UNKNOWN
from mami_core.errors import ConfigError, DescriptionsError
from mami_core.learning.checkpoint import load_state, save_state
from mami_core.learning.descriptions import Neuron
from mami_core.learning.fit import FitConfig, Share, batches_of, fit
from mami_core.learning.targets import SplitConfig
from mami_core.learning.training import (
    Examples,
    LearningConfig,
    Lessons,
    captioner_loss,
    fit_captioner,
    fit_language_model,
    mean_log_p,
    some_of,
)

WORDS = ("red circles", "green squares on dark ground", "blue stripes")


def some_lessons(max_epochs: int = 3, num_neurons: int = 40, learning_rate: float = 1e-3, **learning: Any) -> Lessons:
    """Neurons whose features say which of three descriptions they have."""
    generator = torch.Generator().manual_seed(0)
    kinds = torch.arange(num_neurons) % 3
    features = torch.eye(3)[kinds][:, None].repeat(1, 4, 2) + 0.1 * torch.randn(num_neurons, 4, 6, generator=generator)
    present = torch.ones(num_neurons, 4, dtype=torch.bool)
    present[::5, 2:] = False
    features[~present] = torch.nan  # what stands there must not matter
    examples = Examples(
        neurons=tuple(Neuron("layer", unit) for unit in range(num_neurons)),
        descriptions=tuple((WORDS[kind], f"{WORDS[kind]} again") for kind in kinds.tolist()),
        features=features.half(),
        present=present,
    )
    config = LearningConfig(
        split=SplitConfig(validation=0.2, test=0.2),
        fit=FitConfig(batch_size=8, max_epochs=max_epochs, patience=50, learning_rate=learning_rate),
        **learning,
    )
    return Lessons(examples, config)


def networks(lessons: Lessons) -> tuple[Captioner, LanguageModel]:
    torch.manual_seed(3)
    shape = CaptionerConfig(num_features=6, hidden=16, embedding=8, attention_size=8)
    return (
        Captioner(shape, lessons.vocabulary),
        LanguageModel(LanguageModelConfig(hidden=16, embedding=8, layers=1), lessons.vocabulary),
    )


def test_the_captioner_learns_what_the_features_say() -> None:
    lessons = some_lessons(max_epochs=8, learning_rate=0.01, stop_by="bleu")
    captioner, language_model = networks(lessons)
    scores = [epoch.score for epoch in fit_captioner(captioner, language_model, lessons)]
    assert max(scores) > 60 > scores[0]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_epoch_that_thinks_validation_descriptions_likeliest_is_best(smoothing: float) -> None:
    lessons = some_lessons(max_epochs=6, learning_rate=0.005, label_smoothing=smoothing)
    captioner, language_model = networks(lessons)
    epochs = list(fit_captioner(captioner, language_model, lessons))
    assert epochs[-1].score > epochs[0].score + 0.5
    best = max(epochs, key=lambda epoch: epoch.score)
    assert epochs[-1].state.best_epoch == best.number
    examples, total, count = lessons.examples, 0.0, 0
    for position in lessons.parts["validation"]:
        for text in examples.descriptions[position]:
            words = torch.tensor([lessons.vocabulary.encode(text, 12)])
            rows = slice(position, position + 1)
            log_probs, _ = captioner(examples.features[rows].float(), examples.present[rows], words)
            length = len(text.split()) + 1
            total += sum(log_probs[0, at, words[0, at]].item() for at in range(length))
            count += length
    assert best.score == pytest.approx(total / count, abs=1e-4)


def test_a_word_that_training_never_saw_does_not_count() -> None:
    def log_probs(_rows: Tensor, words: Tensor) -> Tensor:
        return torch.arange(1.0, 8.0).expand(*words.shape, 7).log_softmax(-1)

    plain, with_unknown = torch.tensor([[4, 5, STOP, PAD]]), torch.tensor([[4, UNKNOWN, 5, STOP]])
    assert mean_log_p(log_probs, with_unknown) == pytest.approx(mean_log_p(log_probs, plain))
    assert mean_log_p(log_probs, torch.cat([plain.expand(300, -1), with_unknown])) == pytest.approx(
        mean_log_p(log_probs, plain)
    )


def test_going_on_from_any_epoch_ends_with_the_same_bits() -> None:
    lessons = some_lessons(max_epochs=4)
    whole, language_model = networks(lessons)
    epochs = list(fit_captioner(whole, language_model, lessons))
    for before in epochs[:-1]:
        resumed, _ = networks(lessons)
        state = load_state(save_state(before.state))
        rest = list(fit_captioner(resumed, language_model, lessons, state=state))
        assert [epoch.score for epoch in rest] == [epoch.score for epoch in epochs[before.number :]]
        for name, tensor in whole.state_dict().items():
            assert torch.equal(tensor, resumed.state_dict()[name]), name


@given(seed=st.integers(0, 99), share=st.sampled_from([0.01, 0.5, 0.9]))
def test_exemplars_that_are_left_out_leave_at_least_one(seed: int, share: float) -> None:
    torch.manual_seed(seed)
    present = torch.rand(200, 15) < 0.7
    present[:, 3] = True
    kept = some_of(present, share)
    assert kept.any(1).all()
    assert not (kept & ~present).any()
    expected = max(share, 1 / present.sum(1).float().mean().item())
    assert kept.sum() / present.sum() == pytest.approx(expected, abs=0.06)


class Wandering(nn.Module):
    """Its weight changes with every step, whatever the score."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def loss(self, numbers: np.ndarray, whole: np.ndarray) -> Tensor:
        return -self.weight.sum() * len(numbers) / len(whole)


def test_the_best_epochs_weights_come_back_and_training_stops_in_time() -> None:
    network, scores = Wandering(), iter([1.0, 5.0, 4.0, 3.0, 9.0])
    epochs = fit(network, 8, network.loss, lambda: next(scores), FitConfig(batch_size=4, patience=2))
    seen = [(epoch.number, epoch.is_best, network.weight.item()) for epoch in epochs]
    assert [number for number, _, _ in seen] == [1, 2, 3, 4]  # the 9 is never reached
    assert [best for _, best, _ in seen] == [True, True, False, False]
    assert network.weight.item() == seen[1][2] != seen[3][2]


def test_workers_that_add_their_gradients_make_the_step_of_one() -> None:
    """Three shares of every batch, their gradients added, against the whole batch (no dropout: it differs a worker)."""
    lessons = some_lessons()
    captioner, _ = networks(lessons)
    captioner.eval()
    whole = np.arange(13)
    gradients = []
    for world in (1, 3):
        captioner.zero_grad()
        for rank in range(world):
            captioner_loss(captioner, lessons)(Share(rank=rank, world=world).of(whole), whole).backward()
        gradients.append([parameter.grad.clone() for parameter in captioner.parameters() if parameter.grad is not None])
    for alone, together in zip(*gradients, strict=True):
        torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-6)


def test_nothing_leaks_from_validation_and_test_neurons() -> None:
    lessons = some_lessons()
    told = lessons.examples
    hidden = sorted(set(range(len(told.neurons))) - set(lessons.parts["train"]))
    features, descriptions = told.features.clone(), list(told.descriptions)
    features[hidden] = 7.0
    for position in hidden:
        descriptions[position] = ("unheard words",)
    changed = Lessons(
        Examples(neurons=told.neurons, descriptions=tuple(descriptions), features=features, present=told.present),
        lessons.config,
    )
    assert changed.vocabulary == lessons.vocabulary
    assert torch.equal(changed.words, lessons.words)
    for one, other in zip(changed.feature_statistics(), lessons.feature_statistics(), strict=True):
        assert torch.equal(one, other)


def test_the_language_model_gets_better_at_validation_descriptions() -> None:
    lessons = some_lessons(max_epochs=40)
    _, language_model = networks(lessons)
    scores = [epoch.score for epoch in fit_language_model(language_model, lessons)]
    assert scores[-1] > scores[0] + 0.2


def test_bad_settings_and_neurons_without_exemplars_are_refused() -> None:
    with pytest.raises(ConfigError, match="patience"):
        FitConfig(patience=0)
    with pytest.raises(ConfigError, match="label_smoothing"):
        LearningConfig(label_smoothing=1.0)
    with pytest.raises(DescriptionsError, match="no exemplar"):
        Examples(
            neurons=(Neuron("a", 0),),
            descriptions=(("x",),),
            features=torch.zeros(1, 2, 3),
            present=torch.zeros(1, 2, dtype=torch.bool),
        )


@given(st.integers(1, 300), st.integers(1, 9), st.integers(0, 3), st.booleans())
def test_an_epoch_sees_every_target_once_in_batches_of_one_size(
    num: int, size: int, epoch: int, by_length: bool
) -> None:
    config = FitConfig(batch_size=size)
    lengths = np.arange(num) % 7 if by_length else None
    batches = batches_of(num, config, epoch, lengths=lengths)
    assert sorted(np.concatenate(batches).tolist()) == list(range(num))
    assert sorted(len(batch) for batch in batches)[1:] == [size] * (len(batches) - 1)
    again = batches_of(num, config, epoch, lengths=lengths)
    assert all(np.array_equal(one, other) for one, other in zip(batches, again, strict=True))


def test_targets_of_similar_length_share_a_batch_and_epochs_differ() -> None:
    lengths = np.random.default_rng(0).integers(1, 30, 2000)
    config = FitConfig(batch_size=50)
    first, second = (batches_of(2000, config, epoch, lengths=lengths) for epoch in (1, 2))
    padded = sum(len(batch) * lengths[batch].max() for batch in first)
    assert (
        padded < 1.15 * lengths.sum() < sum(len(batch) * lengths[batch].max() for batch in batches_of(2000, config, 1))
    )
    assert {frozenset(batch.tolist()) for batch in first}.isdisjoint(frozenset(batch.tolist()) for batch in second)
    longest = [lengths[batch].max() for batch in first]
    assert longest != sorted(longest)  # not from short to long


def test_a_decaying_learning_rate_ends_at_nothing() -> None:
    """AdamW's steps along a constant gradient are as long as the learning rate."""
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    config = FitConfig(batch_size=1, max_epochs=2, learning_rate=0.1, weight_decay=0.0, decay=True)
    epochs = fit(network, 50, lambda mine, whole: -network.weight.sum(), lambda: 0.0, config)
    first, second = (float(epoch.state.weights["weight"]) for epoch in epochs)
    assert first == pytest.approx(50 * 0.1 * 0.755, rel=1e-3)
    assert second - first == pytest.approx(50 * 0.1 * 0.255, rel=1e-3)
