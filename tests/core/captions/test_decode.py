"""Captions, their scores, and that neither depends on who is captioned beside them."""

import itertools
import math
from dataclasses import replace
from typing import Any

import jaxtyping
import pytest
import torch
from torch import Tensor

from mami_core.captions import beam, packing
from mami_core.captions.captioner import Captioner, CaptionerConfig
from mami_core.captions.decode import DecodeConfig, Strategy, attention, caption
from mami_core.captions.language_model import LanguageModel, LanguageModelConfig
from mami_core.captions.vocabulary import PAD, SPECIAL_WORDS, STOP, Vocabulary
from mami_core.contracts import Beam
from mami_core.errors import ConfigError, ContractError

STRATEGIES: tuple[Strategy, ...] = ("rerank", "while_decoding", "likelihood")
WORDS = tuple("abcdefghijklmnopqrstuvwxyz")


def networks(num_words: int = 26, *, words: tuple[str, ...] = WORDS, **shape: Any) -> tuple[Captioner, LanguageModel]:
    vocabulary = Vocabulary(words[:num_words] if words is WORDS else words)
    settings: dict[str, Any] = {"num_features": 12, "hidden": 16, "attention_size": 8, "embedding": 6} | shape
    captioner_config = CaptionerConfig(**settings)
    pair = (
        Captioner(captioner_config, vocabulary),
        LanguageModel(LanguageModelConfig(embedding=6, hidden=8), vocabulary),
    )
    with torch.no_grad():
        for network in pair:
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.4)
    return pair[0].eval(), pair[1].eval()


def neurons(count: int, k: int = 4) -> tuple[Tensor, Tensor]:
    present = torch.rand(count, k) < 0.6
    present[:, 0] = True
    return torch.randn(count, k, 12), present


@torch.no_grad()
def teacher_forced(network: Captioner | LanguageModel, texts: list[str], length: int, *neuron: Tensor) -> list[float]:
    """For each text of one neuron the sum over the words and, where it is not cut, its stop word."""
    words = torch.tensor([network.vocabulary.encode(text, length) for text in texts])
    found = network(*(each.expand(len(texts), *each.shape) for each in neuron), words)
    log_probs = found if isinstance(found, Tensor) else found[0]
    return (log_probs.gather(-1, words[..., None])[..., 0] * (words != PAD)).sum(1).tolist()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_scores_of_every_beam_are_teacher_forced_sums(strategy: Strategy) -> None:
    captioner, language_model = networks()
    features, present = neurons(5)
    # More words than most captions need, so that stopped and cut ones come.
    config = DecodeConfig(strategy=strategy, beam_size=6, num_captions=6, max_length=5)
    lengths = set()
    for row, beams in enumerate(caption(captioner, language_model, features, present, config)):
        assert len(beams) == 6
        texts = [each.caption for each in beams]
        likelihoods = teacher_forced(captioner, texts, 5, features[row], present[row])
        for each, expected, by_itself in zip(beams, likelihoods, teacher_forced(language_model, texts, 5), strict=True):
            assert each.log_p_caption == pytest.approx(expected, abs=1e-4)
            assert each.log_p_language == pytest.approx(by_itself, abs=1e-4)
            paid = 0 if strategy == "likelihood" else config.lm_weight * by_itself
            assert each.score == pytest.approx(expected - paid, abs=1e-4)
            lengths.add(len(each.caption.split()))
        assert [each.score for each in beams] == sorted((each.score for each in beams), reverse=True)
    assert 5 in lengths
    assert min(lengths) < 5


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    ("onednn", "shape", "options"),
    [
        (True, {"hidden": 64}, {}),
        (True, {"hidden": 17, "reading": "feeding", "num_ranks": 3}, {"length_penalty": 0.7}),
        (False, {"hidden": 64}, {"length_penalty": 0.7}),
        (True, {"hidden": 17}, {"length_penalty": 0.7, "tidy": True, "window": 0.5, "max_overlap": 0.5}),
    ],
)
def test_neighbours_change_no_bit(
    strategy: Strategy, onednn: bool, shape: dict[str, Any], options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not onednn:
        monkeypatch.setattr(packing, "_has_onednn", lambda weight: False)
    captioner, language_model = networks(words=(*WORDS, "and", "of"), **shape)
    features, present = neurons(37)
    config = DecodeConfig(strategy=strategy, beam_size=10, num_captions=10, max_length=6, **options)
    together = caption(captioner, language_model, features, present, config)
    larger = replace(config, batch_size=48)
    order = torch.randperm(37)
    assert caption(captioner, language_model, features, present, larger) == together
    assert caption(captioner, language_model, features[order], present[order], config) == [together[i] for i in order]
    for row in (0, 20, 36):
        alone = caption(captioner, language_model, features[[row]], present[[row]], config)
        assert alone == [together[row]]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("onednn", [True, False])
def test_hypotheses_that_have_ended_leave_and_change_no_bit(
    strategy: Strategy, onednn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not onednn:
        monkeypatch.setattr(packing, "_has_onednn", lambda weight: False)
    captioner, language_model = networks(
        num_features=64, hidden=32, attention_size=32, attentions=("bahdanau", "luong")
    )
    with torch.no_grad():
        captioner.output.bias[STOP] += 1.5
    features, present = torch.randn(70, 15, 64), torch.rand(70, 15) < 0.8
    present[:, 0] = True
    config = DecodeConfig(strategy=strategy, beam_size=40, num_captions=40, max_length=8, tidy=True)
    stepped: list[int] = []
    going = beam._going
    monkeypatch.setattr(beam, "_going", lambda *of: (found := going(*of), stepped.append(found.shape[1]))[0])
    together = caption(captioner, language_model, features, present, config)
    assert {16, 40} <= set(stepped) <= {16, 24, 32, 40}
    order = torch.randperm(70)
    assert caption(captioner, language_model, features[order], present[order], config) == [together[i] for i in order]
    assert caption(captioner, language_model, features[:3], present[:3], config) == together[:3]
    monkeypatch.setattr(beam, "_FEWEST", 40)
    assert caption(captioner, language_model, features, present, config) == together


@pytest.mark.parametrize("strategy", ["while_decoding", "likelihood"])
def test_a_wide_beam_finds_the_best_of_all_captions(strategy: Strategy) -> None:
    captioner, language_model = networks(3)
    features, present = neurons(2)
    config = DecodeConfig(strategy=strategy, beam_size=60, num_captions=60, max_length=4, lm_weight=0.7)
    every: list[str] = [" ".join(words) for size in (1, 2, 3, 4) for words in itertools.product("abc", repeat=size)]
    # As many beams as there are captions and beginnings of captions: nothing is pruned.
    for row, beams in enumerate(caption(captioner, language_model, features, present, replace(config, beam_size=200))):
        weight = 0 if strategy == "likelihood" else 0.7
        likelihoods = teacher_forced(captioner, every, 4, features[row], present[row])
        pairs = zip(likelihoods, teacher_forced(language_model, every, 4), strict=True)
        scores = {text: mine - weight * theirs for text, (mine, theirs) in zip(every, pairs, strict=True)}
        best = sorted(scores, key=lambda text: -scores[text])[:60]
        assert [each.caption for each in beams] == best


def test_rerank_orders_the_likeliest_captions_by_information() -> None:
    captioner, language_model = networks()
    features, present = neurons(4)
    config = DecodeConfig(strategy="likelihood", beam_size=12, num_captions=12, max_length=5, lm_weight=0.8)
    likely = caption(captioner, language_model, features, present, config)
    reranked = caption(captioner, language_model, features, present, replace(config, strategy="rerank"))

    def information(each: Beam) -> float:
        assert each.log_p_language is not None
        return each.log_p_caption - 0.8 * each.log_p_language

    for by_likelihood, by_information in zip(likely, reranked, strict=True):
        expected = sorted(by_likelihood, key=information, reverse=True)
        assert [each.caption for each in by_information] == [each.caption for each in expected]
    assert [[each.caption for each in beams] for beams in likely] != [[e.caption for e in beams] for beams in reranked]


def test_all_strategies_agree_without_the_language_model() -> None:
    captioner, language_model = networks()
    inputs = (captioner, language_model, *neurons(4))
    config = DecodeConfig(beam_size=7, max_length=5, lm_weight=0.0)
    found = [caption(*inputs, replace(config, strategy=strategy)) for strategy in STRATEGIES]
    texts = [[[each.caption for each in beams] for beams in each_found] for each_found in found]
    assert texts[0] == texts[1] == texts[2]


def test_a_length_penalty_favours_longer_captions() -> None:
    captioner, language_model = networks()
    inputs = (captioner, language_model, *neurons(4))
    config = DecodeConfig(beam_size=12, num_captions=12, max_length=5)
    plain, normalised = caption(*inputs, config), caption(*inputs, replace(config, length_penalty=1.0))
    for before, after in zip(plain, normalised, strict=True):
        scores = {each.caption: each.score / min(len(each.caption.split()) + 1, 5) for each in before}
        assert {each.caption: pytest.approx(each.score) for each in after} == scores
        assert [each.score for each in after] == sorted((each.score for each in after), reverse=True)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_tidy_captions_are_the_best_of_those_that_are_tidy(strategy: Strategy) -> None:
    captioner, language_model = networks(words=("dog", "cat", "and", "the"))
    features, present = neurons(2)
    config = DecodeConfig(strategy=strategy, beam_size=400, num_captions=400, max_length=4)

    def is_tidy(text: str) -> bool:
        said = text.split()
        twice = any(one == other for one, other in itertools.pairwise(said))
        return not twice and said[-1] not in ("and", "the") and all(said.count(word) < 2 for word in ("dog", "cat"))

    # More beams than there are captions of four words.
    for every, tidy in zip(
        caption(captioner, language_model, features, present, config),
        caption(captioner, language_model, features, present, replace(config, tidy=True)),
        strict=True,
    ):
        assert [each.caption for each in tidy] == [each.caption for each in every if is_tidy(each.caption)]
        assert "the and the dog" in {each.caption for each in tidy}


def test_whoever_has_nothing_tidy_to_say_says_something() -> None:
    captioner, language_model = networks(words=("and", "the"))
    config = DecodeConfig(beam_size=3, max_length=3, tidy=True)
    assert all(caption(captioner, language_model, *neurons(3), config))


def test_mutual_information_chooses_within_the_window() -> None:
    captioner, language_model = networks()
    inputs = (captioner, language_model, *neurons(4))
    config = DecodeConfig(beam_size=12, num_captions=12, max_length=5, lm_weight=0.8, length_penalty=0.7)

    def normalised(each: Beam) -> float:
        return each.log_p_caption / min(len(each.caption.split()) + 1, 5) ** 0.7

    for every, within in zip(caption(*inputs, config), caption(*inputs, replace(config, window=0.3)), strict=True):
        likeliest = max(normalised(each) for each in every)
        assert within == [each for each in every if normalised(each) >= likeliest - 0.3]
        assert len(within) < len(every)
    (likeliest_alone, *_) = caption(*inputs, replace(config, window=0.0))
    assert len(likeliest_alone) == 1


def test_kept_captions_can_be_made_to_differ() -> None:
    captioner, language_model = networks()
    inputs = (captioner, language_model, *neurons(4))
    config = DecodeConfig(beam_size=30, num_captions=30, max_length=5)
    for every, different in zip(
        caption(*inputs, config), caption(*inputs, replace(config, max_overlap=0.4, num_captions=4)), strict=True
    ):
        kept: list[Beam] = []
        for each in every:
            sets = [(set(each.caption.split()), set(other.caption.split())) for other in kept]
            if len(kept) < 4 and all(len(a & b) <= 0.4 * len(a | b) for a, b in sets):
                kept.append(each)
        assert different == kept
        assert len(kept) > 1


def test_captions_hold_words_only() -> None:
    captioner, language_model = networks()
    with torch.no_grad():
        captioner.output.bias[:4] += 5
    for beams in caption(captioner, language_model, *neurons(4), DecodeConfig(beam_size=8, num_captions=8)):
        for each in beams:
            assert each.caption
            assert not any(special in each.caption for special in SPECIAL_WORDS)


def test_fewer_captions_than_beams() -> None:
    captioner, language_model = networks(1)
    config = DecodeConfig(beam_size=50, num_captions=50, max_length=3)
    for strategy in STRATEGIES:
        (beams,) = caption(captioner, language_model, *neurons(1), replace(config, strategy=strategy))
        assert sorted(each.caption for each in beams) == ["a", "a a", "a a a"]
        assert all(math.isfinite(each.score) for each in beams)


def test_networks_are_left_as_they_were() -> None:
    captioner, language_model = networks()
    captioner.train()
    caption(captioner, language_model, *neurons(2), DecodeConfig(beam_size=2, max_length=3))
    assert captioner.training
    assert isinstance(captioner.output, torch.nn.Linear)
    captioner(*neurons(2), torch.tensor([[4, STOP], [5, STOP]]))[0].sum().backward()


def test_half_precision_features_are_read_as_they_are() -> None:
    captioner, language_model = networks()
    features, present = neurons(3)
    config = DecodeConfig(beam_size=4, max_length=4)
    half = caption(captioner, language_model, features.half(), present, config)
    assert half == caption(captioner, language_model, features.half().float(), present, config)


def test_bfloat16_products_move_scores_a_little() -> None:
    captioner, language_model = networks()
    inputs = (captioner, language_model, *neurons(3))
    config = DecodeConfig(beam_size=4, max_length=4)
    for exact, near in zip(
        caption(*inputs, config), caption(*inputs, replace(config, precision="bfloat16")), strict=True
    ):
        assert near[0].score == pytest.approx(exact[0].score, abs=0.3)


def test_words_are_traced_to_exemplars() -> None:
    captioner, _ = networks()
    features, present = neurons(2)
    short, long = attention(captioner, features, present, ["a", "b c d"])
    assert {name: each.shape for name, each in short.items()} == dict.fromkeys(captioner.config.attentions, (2, 4))
    for name, each in long.items():
        assert each.shape == (4, 4), name
        torch.testing.assert_close(each.sum(1), torch.ones(4))
        assert (each[:, ~present[1]] == 0).all()


def test_attention_of_a_cut_caption_has_no_stop_word() -> None:
    captioner, _ = networks()
    features, present = neurons(2)
    cut, whole = attention(captioner, features, present, ["a b c", "a b"], max_length=3)
    assert {name: len(each) for name, each in cut.items()} == dict.fromkeys(captioner.config.attentions, 3)
    assert {name: len(each) for name, each in whole.items()} == dict.fromkeys(captioner.config.attentions, 3)


def test_nobody_means_nothing() -> None:
    assert caption(*networks(), *neurons(0)) == []


def test_impossible_inputs_are_refused() -> None:
    captioner, language_model = networks()
    features, present = neurons(3)
    with pytest.raises(ConfigError, match="vocabularies"):
        caption(captioner, networks(5)[1], features, present)
    with pytest.raises(ContractError, match="encoder"):
        caption(captioner, language_model, features[..., :5], present)
    with pytest.raises(ContractError, match="without exemplars"):
        caption(captioner, language_model, features, present & (torch.arange(3) != 1)[:, None])
    features[2, 0, 3] = math.inf
    with pytest.raises(ContractError, match="neuron 2"):
        caption(captioner, language_model, features, present)


@pytest.mark.parametrize(
    "changes",
    [
        {"strategy": "greedy"},
        {"precision": "float8"},
        {"beam_size": 0},
        {"num_captions": 0},
        {"max_length": 1},
        {"batch_size": 0},
        {"lm_weight": math.nan},
        {"length_penalty": math.inf},
        {"rules": "other"},
        {"rules": "milan", "tidy": True},
        {"window": -1.0},
        {"max_overlap": 1.5},
    ],
    ids=str,
)
def test_impossible_decoding_is_refused(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    # Outside tests nobody checks annotations, so the config itself has to.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ConfigError):
        DecodeConfig(**changes)


@pytest.mark.parametrize("count", [1, 16, 37])
def test_progress_counts_neurons_and_no_filling(count: int) -> None:
    captioner, _ = networks()
    told: list[int] = []
    config = DecodeConfig(strategy="likelihood", beam_size=2, num_captions=1, batch_size=16)
    caption(captioner, None, *neurons(count), config, told=told.append)
    assert sum(told) == count
    assert all(told)
