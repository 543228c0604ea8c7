"""The language model, and captions scored by it."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mami_core.captions import prefixes
from mami_core.captions.language_model import LanguageModel, LanguageModelConfig
from mami_core.captions.prefixes import levels, log_p_language
from mami_core.captions.vocabulary import PAD, START, STOP, Vocabulary
from mami_core.errors import ConfigError

VOCABULARY = Vocabulary(tuple("abcdefghij"))

captions = st.lists(
    st.tuples(st.lists(st.integers(4, 6), max_size=6), st.booleans()).map(
        lambda caption: ([*caption[0], *([STOP] if caption[1] else [])] + [PAD] * 7)[:7]
    ),
    min_size=1,
    max_size=30,
)


def language_model(layers: int = 2, *, hidden: int = 8) -> LanguageModel:
    network = LanguageModel(LanguageModelConfig(embedding=6, hidden=hidden, layers=layers), VOCABULARY).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return network


@torch.no_grad()
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_it_is_torchs_lstm(layers: int) -> None:
    network, words = language_model(layers), torch.randint(4, 14, (5, 7))
    reference = nn.LSTM(6, 8, layers, batch_first=True)
    for layer, weights in enumerate(reference.all_weights):
        from_input, from_hidden = network.input_gates[layer], network.hidden_gates[layer]
        for mine, theirs in zip((*from_input.parameters(), *from_hidden.parameters()), (0, 2, 1), strict=True):
            weights[theirs].copy_(mine)
        weights[3].zero_()
    shifted = torch.cat([torch.full((5, 1), START), words[:, :-1]], dim=1)
    expected = network.output(reference(network.embedding(shifted))[0]).log_softmax(-1)
    torch.testing.assert_close(network(words), expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_stepping_agrees_with_teacher_forcing() -> None:
    network, words = language_model(), torch.randint(4, 14, (5, 7))
    expected, state, last = network(words), network.start(5), torch.full((5,), START)
    for position in range(7):
        log_probs, state = network.step(state, last)
        torch.testing.assert_close(log_probs, expected[:, position], atol=1e-5, rtol=1e-4)
        last = words[:, position]


def test_training_reaches_every_weight() -> None:
    network, words = language_model().train(), torch.randint(4, 14, (5, 7))
    network(words).gather(-1, words[..., None]).sum().backward()
    assert all(each.grad is not None and each.grad.any() for each in network.parameters())


@torch.no_grad()
@settings(max_examples=15)
@given(captions)
def test_scores_are_teacher_forced_sums(rows: list[list[int]]) -> None:
    torch.manual_seed(0)
    network, words = language_model(), torch.tensor(rows)
    each = network(words).gather(-1, words[..., None])[..., 0]
    expected = (each * (words != PAD)).sum(1)
    torch.testing.assert_close(log_p_language(network, words), expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_scores_do_not_depend_on_other_captions(monkeypatch: pytest.MonkeyPatch) -> None:
    network, words = language_model(hidden=64), torch.randint(4, 7, (12, 6))
    words[::3, 2], words[::3, 3:] = STOP, PAD
    together = log_p_language(network, words)
    assert torch.equal(torch.cat([log_p_language(network, row[None]) for row in words]), together)
    monkeypatch.setattr(prefixes, "_CHUNK", 5)
    assert torch.equal(log_p_language(network, words), together)


@given(captions)
def test_each_beginning_comes_once(rows: list[list[int]]) -> None:
    beginnings = {
        tuple(row[:position])
        for row in rows
        for position in range(7)
        if row[position] != PAD and PAD not in row[:position]
    }
    assert sum(len(level.last) for level in levels(torch.tensor(rows))) == len(beginnings)


@pytest.mark.parametrize("changes", [{"layers": 0}, {"hidden": 0}, {"embedding": 0}, {"dropout": -0.1}], ids=str)
def test_impossible_language_models_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        LanguageModelConfig(**changes)
