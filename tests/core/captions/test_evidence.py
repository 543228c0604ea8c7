"""Captions held against exemplars: against plain loops, and whoever is weighed beside them."""

import math
from dataclasses import replace
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mami_core.captions.captioner import Captioner
from mami_core.captions.decode import DecodeConfig, Strategy, caption
from mami_core.captions.evidence import Evidence, EvidenceConfig, Phrase
from mami_core.captions.language_model import LanguageModel
from mami_core.captions.vocabulary import Vocabulary
from mami_core.errors import ConfigError
from tests.core.captions.test_decode import networks

WORDS = ("black", "white", "dogs", "dog", "heads", "and", "on", "grass", "beside", "cats")
VOCABULARY = Vocabulary(WORDS)
PHRASES = (
    *(Phrase(text, "noun") for text in ("dogs", "dog heads", "cats", "grass")),
    *(Phrase(text, "colour") for text in ("black", "white")),
    Phrase("on grass", "context"),
)


def evidence(seed: int = 0, phrases: tuple[Phrase, ...] = PHRASES, vocabulary: Vocabulary = VOCABULARY) -> Evidence:
    torch.manual_seed(seed)
    made = Evidence(EvidenceConfig(num_features=12, hidden=16, phrases=phrases), vocabulary).eval()
    with torch.no_grad():
        made.second.weight.mul_(8)
        made.chance.copy_(torch.rand(len(phrases)) * 0.3)
        assert made.usual is not None
        made.usual.copy_(made.chance * 0.8)
    return made


def neurons(count: int, k: int = 5) -> tuple[Tensor, Tensor]:
    present = torch.rand(count, k) < 0.7
    present[:, 0] = True
    return torch.randn(count, k, 12), present


def encoded(texts: list[str], length: int = 7) -> Tensor:
    return torch.tensor([VOCABULARY.encode(text, length) for text in texts])


def plainly_found(text: str, phrases: tuple[Phrase, ...]) -> list[Phrase]:
    """From left to right the longest phrase that begins at each word."""
    words, found = text.split(), []
    while words:
        longest = max((p for p in phrases if words[: len(p.text.split())] == p.text.split()), key=len_, default=None)
        found += [longest] if longest else []
        words = words[len_(longest) if longest else 1 :]
    return found


def len_(phrase: Phrase) -> int:
    return len(phrase.text.split())


def plainly_of_one_unit(truth: list[float], usual: float) -> list[float]:
    """Bayes' rule with the share that makes it all likeliest, where two more exemplars are as usual."""
    share = usual = min(max(usual, 0.004), 0.996)

    def posterior() -> list[float]:
        return [share * p / usual / (share * p / usual + (1 - share) * (1 - p) / (1 - usual)) for p in truth]

    for _ in range(8):
        share = (sum(posterior()) + 2 * usual) / (len(truth) + 2)
    return posterior()


@torch.no_grad()
def plainly_weighed(probe: Evidence, features: Tensor, text: str) -> tuple[float, float]:
    """One neuron's caption, exemplar by exemplar; all of them are there: its worth and its support."""
    phrases = probe.config.phrases
    texts, found = [phrase.text for phrase in phrases], plainly_found(text, phrases)
    chance = dict(zip(texts, probe.chance.double().tolist(), strict=True))
    assert probe.usual is not None
    truth = {}
    columns = zip(phrases, probe(features).double().sigmoid().T.tolist(), probe.usual.double().tolist(), strict=True)
    for (name, kind), alone, usual in columns:
        # A place's truth is a share, and no guess; coarse words are true of nothing.
        told = alone if kind == "place" else plainly_of_one_unit(alone, usual)
        truth[name] = told if chance[name] < 1 else [0.0] * len(alone)
    support, gain = 1.0 if found else 0.0, 0.0
    for kind in dict.fromkeys(phrase.kind for phrase in found):
        of_kind = list(dict.fromkeys(phrase.text for phrase in found if phrase.kind == kind))
        together = (lambda values: min(1.0, sum(values))) if kind == "colour" else max
        share = sum(together([truth[name][e] for name in of_kind]) for e in range(len(features))) / len(features)
        # Each of several has part in it.
        support = min(support, share, *(2 * sum(truth[name]) / len(features) for name in of_kind))
        expected = min(max(sum(chance[name] for name in of_kind), 0.004), 0.999)
        share = min(max(share, 1e-4), 1 - 1e-4)
        if share > expected:
            surprise = share * math.log(share / expected) + (1 - share) * math.log((1 - share) / (1 - expected))
            gain += len(features) * surprise
    tells = any(phrase.kind != "place" for phrase in found)
    worth = 4 * min(1, support / 0.8) ** 3 * (min(gain, 22) + tells) / 23
    return worth, support if found else math.nan


sentences = st.lists(st.sampled_from(WORDS), min_size=1, max_size=6).map(" ".join)


@given(texts=st.lists(sentences, min_size=1, max_size=6), seed=st.integers(0, 99))
@settings(max_examples=60)
def test_weighing_agrees_with_plain_loops(texts: list[str], seed: int) -> None:
    probe = evidence(seed, (*PHRASES, Phrase("on", "place")))
    probe.chance[2] = 1  # "cats" are everywhere
    features, present = torch.randn(1, 4, 12), torch.ones(1, 4, dtype=torch.bool)
    worth, support = probe.weigh(features, present, encoded(texts)[None])
    expected = [plainly_weighed(probe, features[0], text) for text in texts]
    assert worth[0].tolist() == pytest.approx([each for each, _ in expected], abs=1e-4)
    assert support[0].tolist() == pytest.approx([each for _, each in expected], abs=1e-4, nan_ok=True)


@given(seed=st.integers(0, 99), text=sentences)
@settings(max_examples=20)
def test_absent_exemplars_count_for_nothing(seed: int, text: str) -> None:
    probe = evidence(seed)
    features, present = neurons(1, k=6)
    features[~present] = math.nan
    there = features[:, present[0]]
    words = encoded([text])[None]
    alone = probe.weigh(there, torch.ones(there.shape[:2], dtype=torch.bool), words)
    torch.testing.assert_close(tuple(probe.weigh(features, present, words)), tuple(alone), equal_nan=True)


def test_an_exemplar_without_a_region_of_its_own_is_no_evidence() -> None:
    probe = evidence()
    probe.config = replace(probe.config, region_size=11)
    features, present = torch.randn(3, 4, 12), torch.ones(3, 4, dtype=torch.bool)
    features[..., 11] = 0.3
    words = encoded(["black dogs on grass", "cats"])[None].expand(3, -1, -1)
    features[1, 2:, 11] = 1.0
    features[2, :, 11] = 1.0
    worth, support = probe.weigh(features, present, words)
    assert (worth[0] > 0).all()
    of_two = probe.weigh(features[1:2, :2], present[1:2, :2], words[1:2])
    torch.testing.assert_close((worth[1:2], support[1:2]), tuple(of_two))
    assert not worth[2].any()
    assert support[2].isnan().all()


@pytest.mark.parametrize(
    ("truth", "low", "high"),
    [
        ([0.6] * 10, 0.9, 1.0),  # each of them may well show dogs: then dogs are what the unit looks for
        ([0.05] * 10, 0.0, 0.06),  # no surer than chance, and no more of them than by chance
        ([0.98] * 5 + [0.001] * 5, 0.48, 0.52),  # what is clear stays so
        ([0.6] * 5 + [0.01] * 5, 0.45, 0.6),
    ],
)
def test_exemplars_of_a_unit_tell_of_each_other(truth: list[float], low: float, high: float) -> None:
    probe = evidence(phrases=(*PHRASES, Phrase("on", "place")))
    probe.usual = torch.full((len(PHRASES) + 1,), 0.05)
    probe.truth = lambda features: torch.tensor(truth).double()[None, :, None].expand(1, -1, len(PHRASES) + 1)
    features, present = torch.zeros(1, len(truth), 12), torch.ones(1, len(truth), dtype=torch.bool)
    support = probe.weigh(features, present, encoded(["dogs", "on"])[None]).support[0].tolist()
    assert low <= support[0] <= high
    assert support[1] == pytest.approx(sum(truth) / len(truth)), "a place's truth is a share, and no guess"


def test_where_it_is_not_known_what_is_usual_chance_is() -> None:
    probe, before = evidence(), evidence()
    probe.usual, before.usual = probe.chance.clone(), None
    features, present = neurons(3)
    words = encoded(["black dogs on grass", "cats and dogs"]).expand(3, -1, -1)
    assert all(
        one.equal(other)
        for one, other in zip(*(each.weigh(features, present, words) for each in (probe, before)), strict=True)
    )
    assert "usual" not in before.state_dict()


def test_coarse_words_are_true_of_nothing() -> None:
    probe = evidence()
    probe.chance[PHRASES.index(Phrase("white", "colour"))] = 1
    features, present = torch.randn(1, 4, 12), torch.ones(1, 4, dtype=torch.bool)
    worth, support = probe.weigh(features, present, encoded(["white", "black", "black and white", "beside"])[None])
    assert support[0, 0] == worth[0, 0] == 0
    assert support[0, 1] > 0.05
    assert support[0, 2] == 0, "each of several words must be true"
    assert support[0, 3].isnan(), "nothing is claimed"


def captioner(probe: Evidence | None, words: tuple[str, ...] = WORDS) -> tuple[Captioner, LanguageModel]:
    torch.manual_seed(3)
    pair = networks(words=words)
    pair[0].evidence = probe
    return pair


CONFIG = DecodeConfig(evidence_weight=1.5, beam_size=8, num_captions=8, max_length=5, length_penalty=1.3)


@pytest.mark.parametrize("strategy", get_args(Strategy))
def test_evidence_is_added_to_the_scores(strategy: Strategy) -> None:
    pair = captioner(evidence())
    config = replace(CONFIG, strategy=strategy)
    weight = 0.0 if strategy == "likelihood" else config.lm_weight
    probe = pair[0].evidence
    assert probe is not None
    features, present = neurons(4)
    kinds = set()
    for row, beams in enumerate(caption(*pair, features, present, config)):
        words = encoded([each.caption for each in beams], 5)
        weighed = probe.weigh(features[row : row + 1], present[row : row + 1], words[None])
        worth, support = (of[0].tolist() for of in weighed)
        assert [math.nan if each.support is None else each.support for each in beams] == pytest.approx(
            support, abs=1e-5, nan_ok=True
        )
        for each, of_it, numbers in zip(beams, worth, words, strict=True):
            assert each.log_p_language is not None
            information = each.log_p_caption - weight * each.log_p_language
            told = information / int((numbers != 0).sum()) ** 1.3
            assert each.score == pytest.approx(told + 1.5 * of_it, abs=1e-4)
            kinds.add(round(of_it, 2))
        assert [each.score for each in beams] == sorted((each.score for each in beams), reverse=True)
    assert len(kinds) > 4, "all captions were borne out alike"


def test_support_is_known_where_evidence_decides_nothing_and_not_without_evidence() -> None:
    features, present = neurons(4)
    config = replace(CONFIG, evidence_weight=0.0)
    weighed = {beam.caption: beam.support for beam in caption(*captioner(evidence()), features, present, CONFIG)[2]}
    found = caption(*captioner(evidence()), features, present, config)[2]
    assert {beam.caption: beam.support for beam in found} == weighed
    assert len({each for each in weighed.values() if each is not None}) > 1
    assert all(beam.support is None for beam in caption(*captioner(None), features, present, config)[2])


def test_a_neurons_captions_do_not_depend_on_the_others() -> None:
    pair = captioner(evidence())
    features, present = neurons(37)
    together = caption(*pair, features, present, CONFIG)
    for first, end in ((0, 1), (1, 20), (20, 37)):
        assert caption(*pair, features[first:end], present[first:end], CONFIG) == together[first:end]


def test_a_captioner_that_knows_of_no_phrases_refuses_and_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match="mami annotate"):
        caption(*captioner(None), *neurons(2), CONFIG)


def test_what_features_tell_is_not_asked_of_the_probe() -> None:
    probe = evidence()
    told_by = ((), (), (), (), (3, 5), (7,), ())
    telling = Evidence(replace(probe.config, told_by=told_by), VOCABULARY).eval()
    others = telling.config.asked
    assert others == [0, 1, 2, 3, 6]
    weights = probe.state_dict()
    last = {name: weights[name][others] for name in ("second.weight", "second.bias")}
    telling.load_state_dict(weights | last)
    features = torch.rand(4, 5, 12)
    by_probe, found = probe.truth(features), telling.truth(features)
    black, white = found[..., 4], found[..., 5]
    assert black.equal((2 * features[..., [3, 5]].amax(-1)).clamp(0, 1).double())
    assert white.equal((2 * features[..., 7]).clamp(0, 1).double())
    assert found[..., others].equal(by_probe[..., others])
    features[..., [3, 5]] = 0
    features[..., 7], telling.chance[5] = 0.5, 0.01
    present = torch.ones(4, 5, dtype=torch.bool)
    worth, support = telling.weigh(features, present, encoded(["white", "black"]).expand(4, -1, -1))
    assert (worth[:, 0] > 1.5).all()
    assert (worth[:, 1] == 0).all()
    assert support.tolist() == [[1.0, 0.0]] * 4
    filling = Evidence(replace(telling.config, filling=(7,)), VOCABULARY)
    assert (filling.truth(features)[..., 5] == 0.5).all(), "what fills regions is half true of half of one"


def test_phrases_are_distinct_and_of_words_that_the_captioner_knows() -> None:
    with pytest.raises(ConfigError, match="each text once"):
        EvidenceConfig(num_features=2, phrases=(Phrase("dogs", "noun"), Phrase("dogs", "part")))
    with pytest.raises(ConfigError, match="a word or more, each once"):
        Evidence(EvidenceConfig(num_features=2, phrases=(Phrase("dog  heads", "noun"), PHRASES[1])), VOCABULARY)
    for told_by in (((),), ((), (2,))):
        with pytest.raises(ConfigError, match="told_by: expected some of 2 features"):
            EvidenceConfig(num_features=2, phrases=(PHRASES[0], PHRASES[4]), told_by=told_by)
    with pytest.raises(ConfigError, match="told_by: expected a phrase that no feature tells"):
        EvidenceConfig(num_features=2, phrases=(PHRASES[4],), told_by=((1,),))
    with pytest.raises(ConfigError, match="zebras"):
        Evidence(EvidenceConfig(num_features=2, phrases=(Phrase("zebras", "noun"),)), VOCABULARY)
