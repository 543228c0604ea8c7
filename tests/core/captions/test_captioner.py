"""The captioner against a plain reading of its equations."""

import dataclasses
import itertools
import json
import math
from typing import Any

import jaxtyping
import pytest
import torch
from torch import Tensor, nn

from mami_core.captions import attention
from mami_core.captions.attention import ATTENTIONS, Additive, Multiplicative, SelfAttention
from mami_core.captions.captioner import Captioner, CaptionerConfig, milan
from mami_core.captions.packing import packed
from mami_core.captions.vocabulary import START, Vocabulary
from mami_core.errors import ConfigError

VOCABULARY = Vocabulary(tuple("abcdefghij"))
SUBSETS = [subset for size in (1, 2, 3) for subset in itertools.combinations(ATTENTIONS, size)]
SHAPES = [
    *({"attentions": subset, "fusion": fusion} for subset in SUBSETS for fusion in ("sum", "concatenation", "weights")),
    {"luong": "concat"},
    {"luong": "scaled"},
    {"luong": "dot", "num_features": 16},
    {"self_context": "mean"},
    {"attentions": ("self",), "self_context": "mean", "fusion": "concatenation"},
    {"reading": "after"},
    {"reading": "feeding", "fusion": "concatenation"},
    {"num_ranks": 3},
    {"num_ranks": 9, "attentions": ("self",), "self_context": "mean"},
]


def captioner(**changes: Any) -> Captioner:
    small = CaptionerConfig(num_features=12, hidden=16, attention_size=8, embedding=6, dropout=0.3)
    network = Captioner(dataclasses.replace(small, **changes), VOCABULARY).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
        network.feature_mean.normal_()
        network.feature_scale.uniform_(0.5, 2)
    return network


def neurons(num_features: int = 12, *, count: int = 3, k: int = 5) -> tuple[Tensor, Tensor]:
    present = torch.rand(count, k) < 0.6
    present[:, 0], present[0] = True, True
    return torch.randn(count, k, num_features), present


def plain(network: Captioner, features: Tensor, words: list[int]) -> tuple[Tensor, dict[str, Tensor]]:
    """One neuron with all exemplars present, word by word, as the docstrings' equations read."""
    f = (features - network.feature_mean) / network.feature_scale
    balance = network.attentions.balance
    shares = torch.ones(1) if balance is None else balance.softmax(0)
    ranks = plain_ranks(network, len(f))
    mean = ranks @ f / ranks.sum()
    h, c = network.initial_hidden(mean).tanh(), network.initial_cell(mean).tanh()
    reading, r = network.config.reading, torch.zeros_like(h)
    rows, all_weights = [], []
    for last in (START, *words[:-1]):
        inputs = [network.embedding.weight[last]]
        if reading != "before":
            h, c = lstm_cell(network, torch.cat([*inputs, r] if reading == "feeding" else inputs), h, c)
        weights = {
            name: (found := ranks * plain_weights(each, f, h)) / found.sum()
            for name, each in network.attentions.each.items()
        }
        contexts = [each @ f for each in weights.values()]
        context = {
            "sum": lambda contexts: sum(contexts),
            "concatenation": torch.cat,
            "weights": lambda contexts: shares @ torch.stack(contexts),
        }[network.config.fusion](contexts)
        context = network.context_gate(h).sigmoid() * context
        if reading == "before":
            h, c = lstm_cell(network, torch.cat([*inputs, context]), h, c)
        else:
            r = network.reader(torch.cat([h, context])).tanh()
        rows.append(network.output(h if reading == "before" else r).log_softmax(0))
        all_weights.append(weights)
    return torch.stack(rows), {name: torch.stack([each[name] for each in all_weights]) for name in all_weights[0]}


def plain_ranks(network: Captioner, k: int) -> Tensor:
    """How much each exemplar weighs."""
    ranks = network.attentions.ranks
    return torch.ones(k) if ranks is None else torch.stack([ranks[min(k, len(ranks) - 1)].exp() for k in range(k)])


def plain_weights(module: nn.Module, f: Tensor, h: Tensor) -> Tensor:
    if isinstance(module, Additive):
        return torch.stack([module.energy @ (module.query(h) + module.key(each)).tanh() for each in f]).softmax(0)
    if isinstance(module, Multiplicative):
        return (torch.stack([h @ module.key(each) for each in f]) * module.scale).softmax(0)
    assert isinstance(module, SelfAttention)
    among = (module.query(f) @ module.key(f).T / math.sqrt(8)).softmax(1)
    if module.hidden is None or module.attended is None:
        return among.mean(0)
    energies = module.attended(among @ f) @ module.hidden(h) / math.sqrt(8)
    return energies.softmax(0) @ among


def lstm_cell(network: Captioner, inputs: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """The LSTM cell of torch with the same weights."""
    cell = nn.LSTMCell(len(inputs), len(h))
    sources = {
        "before": ["word_gates", "context_gates"],
        "after": ["word_gates"],
        "feeding": ["word_gates", "read_gates"],
    }
    gates = [getattr(network, name).weight for name in sources[network.config.reading]]
    cell.weight_ih.data = torch.cat(gates, dim=1)
    cell.weight_hh.data, cell.bias_ih.data = network.hidden_gates.weight.data, network.word_gates.bias.data
    cell.bias_hh.data.zero_()
    h, c = cell(inputs[None], (h[None], c[None]))
    return h[0], c[0]


def test_luongs_energies_are_as_their_form_says() -> None:
    assert [captioner(luong=form).attentions.each["luong"].scale for form in ("general", "scaled")] == [1, 0.25]


@torch.no_grad()
@pytest.mark.parametrize("changes", SHAPES, ids=str)
def test_log_probs_and_weights_follow_the_equations(changes: dict[str, Any]) -> None:
    network = captioner(**changes)
    features, words = torch.randn(4, network.config.num_features), [5, 9, 4, 2]
    log_probs, weights = network(features[None], torch.ones(1, 4, dtype=torch.bool), torch.tensor([words]))
    expected, expected_weights = plain(network, features, words)
    torch.testing.assert_close(log_probs[0], expected, atol=2e-5, rtol=1e-4)
    assert set(weights) == set(network.config.attentions)
    for name, each in weights.items():
        torch.testing.assert_close(each[0], expected_weights[name], atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("changes", SHAPES[-11:], ids=str)
def test_stepping_agrees_with_teacher_forcing(changes: dict[str, Any]) -> None:
    network = captioner(**changes)
    features, present = neurons(network.config.num_features)
    words = torch.randint(4, 14, (3, 6))
    expected, expected_weights = network(features, present, words)
    state, last = network.start(features, present), torch.full((3,), START)
    for position in range(6):
        log_probs, state, weights = network.step(state, last)
        torch.testing.assert_close(log_probs, expected[:, position], atol=2e-5, rtol=1e-4)
        for name, each in weights.items():
            torch.testing.assert_close(each, expected_weights[name][:, position], atol=1e-5, rtol=1e-4)
        last = words[:, position]


@torch.no_grad()
@pytest.mark.parametrize("changes", SHAPES[-11:-2], ids=str)
def test_absent_exemplars_change_nothing(changes: dict[str, Any]) -> None:
    network = captioner(**changes)
    features, present = neurons(network.config.num_features)
    features[~present] = math.nan
    words = torch.randint(4, 14, (3, 4))
    log_probs, weights = network(features, present, words)
    for row, there in enumerate(present):
        alone = features[row : row + 1, there]
        expected, expected_weights = network(alone, torch.ones_like(alone[..., 0], dtype=torch.bool), words[[row]])
        torch.testing.assert_close(log_probs[row], expected[0], atol=1e-5, rtol=1e-4)
        for name, each in weights.items():
            torch.testing.assert_close(each[row][:, there], expected_weights[name][0], atol=1e-5, rtol=1e-4)
            assert (each[row][:, ~there] == 0).all()


@torch.no_grad()
def test_weights_sum_to_one() -> None:
    _, weights = captioner()(*neurons(), torch.randint(4, 14, (3, 4)))
    for each in weights.values():
        torch.testing.assert_close(each.sum(-1), torch.ones(3, 4))


@torch.no_grad()
def test_beams_of_a_neuron_share_its_memory() -> None:
    network = captioner()
    features, present = neurons()
    state, words = network.start(features, present), torch.randint(4, 14, (12,))
    rows = torch.arange(3).repeat_interleave(4)
    wide = state.reorder(rows)
    assert wide.memory is state.memory
    log_probs, _, weights = network.step(wide, words)
    expected, _, expected_weights = network.step(network.start(features[rows], present[rows]), words)
    torch.testing.assert_close(log_probs, expected, atol=1e-5, rtol=1e-4)
    for name, each in weights.items():
        torch.testing.assert_close(each, expected_weights[name], atol=1e-6, rtol=1e-4)


@torch.no_grad()
def test_neurons_can_leave() -> None:
    network = captioner()
    features, present = neurons()
    kept, words = torch.tensor([2, 0]), torch.randint(4, 14, (4,))
    state = network.start(features, present).reorder(torch.tensor([2, 2, 0, 0]), kept)
    expected = network.start(features[kept], present[kept]).reorder(torch.tensor([0, 0, 1, 1]))
    torch.testing.assert_close(network.step(state, words)[0], network.step(expected, words)[0], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_energies_do_not_depend_on_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    network, (features, present), words = captioner(), neurons(count=7), torch.randint(4, 14, (7, 3))
    whole, _ = network(features, present, words)
    monkeypatch.setattr(attention, "_CHUNK_CPU", 80)
    assert torch.equal(network(features, present, words)[0], whole)


@pytest.mark.parametrize("changes", SHAPES, ids=str)
def test_training_reaches_every_weight(changes: dict[str, Any]) -> None:
    network = captioner(**changes).train()
    words = torch.randint(4, 14, (3, 4))
    log_probs, _ = network(*neurons(network.config.num_features), words)
    log_probs.gather(-1, words[..., None]).sum().backward()
    untouched = [name for name, each in network.named_parameters() if each.grad is None or not each.grad.any()]
    assert untouched == []


def test_gradients_are_those_of_the_plain_equations() -> None:
    network, features, words = captioner(dropout=0.0), torch.randn(4, 12), [5, 9, 4, 2]
    log_probs, _ = network(features[None], torch.ones(1, 4, dtype=torch.bool), torch.tensor([words]))
    for name in ("key.weight", "query.weight"):
        weight = network.attentions.each["bahdanau"].get_parameter(name)
        (ours,) = torch.autograd.grad(log_probs[0, :, 4].sum(), weight, retain_graph=True)
        (expected,) = torch.autograd.grad(plain(network, features, words)[0][:, 4].sum(), weight)
        torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_packing_keeps_the_results_and_the_original() -> None:
    network, (features, present), words = captioner(), neurons(), torch.randint(4, 14, (3, 4))
    before = {name: each.clone() for name, each in network.state_dict().items()}
    expected, _ = network(features, present, words)
    fast = packed(network)
    torch.testing.assert_close(fast(features, present, words)[0], expected, atol=2e-5, rtol=1e-4)
    assert fast.embedding.weight.data_ptr() == network.embedding.weight.data_ptr()
    assert all(torch.equal(before[name], each) for name, each in network.state_dict().items())
    torch.testing.assert_close(packed(network, "bfloat16")(features, present, words)[0], expected, atol=0.2, rtol=0.05)


def test_a_config_in_json_restores_itself() -> None:
    config = CaptionerConfig(num_features=8, attentions=("self", "bahdanau"), fusion="weights")
    assert config.attentions == ("bahdanau", "self")
    assert CaptionerConfig(**json.loads(json.dumps(dataclasses.asdict(config)))) == config


def test_milan_is_bahdanau_alone() -> None:
    assert milan(3904).attentions == ("bahdanau",)
    assert set(Captioner(milan(8), VOCABULARY).attentions.each) == {"bahdanau"}


@pytest.mark.parametrize(
    "changes",
    [
        {"attentions": ()},
        {"attentions": ("self", "self")},
        {"attentions": ("other",)},
        {"attentions": "luong"},
        {"fusion": "product"},
        {"luong": "Dot"},
        {"luong": "dot"},
        {"self_context": "max"},
        {"hidden": 0},
        {"num_features": 0},
        {"dropout": 1.0},
    ],
    ids=str,
)
def test_impossible_captioners_are_refused(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    # Outside tests nobody checks annotations, so the config itself has to.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ConfigError):
        dataclasses.replace(CaptionerConfig(num_features=8), **changes)
