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

WORDS = ("black", "white", "dogs", "dog", "heads", "and", "on", "grass", "often", "cats")
VOCABULARY = Vocabulary(WORDS)
PHRASES = (
    *(Phrase(text, "noun") for text in ("dogs", "dog heads", "cats", "grass")),
    *(Phrase(text, "colour") for text in ("black", "white")),
    Phrase("on grass", "context"),
)


def evidence(seed: int = 0, phrases: tuple[Phrase, ...] = PHRASES) -> Evidence:
    torch.manual_seed(seed)
    made = Evidence(EvidenceConfig(num_features=12, hidden=16, phrases=phrases), VOCABULARY).eval()
    with torch.no_grad():
        made.second.weight.mul_(8)
        made.chance.copy_(torch.rand(len(phrases)) * 0.3)
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


@torch.no_grad()
def plainly_weighed(probe: Evidence, features: Tensor, text: str) -> float:
    """One neuron's caption, exemplar by exemplar; all of them are there."""
    phrases = probe.config.phrases
    texts, found = [phrase.text for phrase in phrases], plainly_found(text, phrases)
    truth = dict(zip(texts, probe(features).double().sigmoid().T.tolist(), strict=True))
    chance = dict(zip(texts, probe.chance.double().tolist(), strict=True))
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
    tells = any(phrase.kind != "place" and chance[phrase.text] < 1 for phrase in found)
    return 4 * min(1, support / 0.8) ** 3 * (min(gain, 22) + tells) / 23


sentences = st.lists(st.sampled_from(WORDS), min_size=1, max_size=6).map(" ".join)


@given(texts=st.lists(sentences, min_size=1, max_size=6), seed=st.integers(0, 99))
@settings(max_examples=60)
def test_weighing_agrees_with_plain_loops(texts: list[str], seed: int) -> None:
    probe = evidence(seed, (*PHRASES, Phrase("on", "place")))
    probe.chance[2] = 1  # "cats" are everywhere
    features, present = torch.randn(1, 4, 12), torch.ones(1, 4, dtype=torch.bool)
    weighed = probe.weigh(features, present, encoded(texts)[None])
    expected = [plainly_weighed(probe, features[0], text) for text in texts]
    assert weighed[0].tolist() == pytest.approx(expected, abs=1e-4)


@given(seed=st.integers(0, 99), text=sentences)
@settings(max_examples=20)
def test_absent_exemplars_count_for_nothing(seed: int, text: str) -> None:
    probe = evidence(seed)
    features, present = neurons(1, k=6)
    features[~present] = math.nan
    there = features[:, present[0]]
    words = encoded([text])[None]
    alone = probe.weigh(there, torch.ones(there.shape[:2], dtype=torch.bool), words)
    torch.testing.assert_close(probe.weigh(features, present, words), alone)


def test_an_exemplar_without_a_region_of_its_own_is_no_evidence() -> None:
    probe = evidence()
    probe.config = replace(probe.config, region_size=11)
    features, present = torch.randn(3, 4, 12), torch.ones(3, 4, dtype=torch.bool)
    features[..., 11] = 0.3
    words = encoded(["black dogs on grass", "cats"])[None].expand(3, -1, -1)
    features[1, 2:, 11] = 1.0
    features[2, :, 11] = 1.0
    found = probe.weigh(features, present, words)
    assert (found[0] > 0).all()
    torch.testing.assert_close(found[1:2], probe.weigh(features[1:2, :2], present[1:2, :2], words[1:2]))
    assert not found[2].any()


def captioner(probe: Evidence | None) -> tuple[Captioner, LanguageModel]:
    torch.manual_seed(3)
    pair = networks(words=WORDS)
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
        weighed = probe.weigh(features[row : row + 1], present[row : row + 1], words[None])[0].tolist()
        for each, of_it, numbers in zip(beams, weighed, words, strict=True):
            assert each.log_p_language is not None
            information = each.log_p_caption - weight * each.log_p_language
            told = information / int((numbers != 0).sum()) ** 1.3
            assert each.score == pytest.approx(told + 1.5 * of_it, abs=1e-4)
            kinds.add(round(of_it, 2))
        assert [each.score for each in beams] == sorted((each.score for each in beams), reverse=True)
    assert len(kinds) > 4, "all captions were borne out alike"


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
    weighed = telling.weigh(features, present, encoded(["white", "black"]).expand(4, -1, -1))
    assert (weighed[:, 0] > 1.5).all()
    assert (weighed[:, 1] == 0).all()
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
