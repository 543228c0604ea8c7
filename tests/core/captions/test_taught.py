"""Captions keep to what was taught: against a plain list of what that is, and whoever is captioned beside them."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mami_core.captions.captioner import Captioner, CaptionerConfig
from mami_core.captions.decode import DecodeConfig, Strategy, caption
from mami_core.captions.language_model import LanguageModel, LanguageModelConfig
from mami_core.captions.taught import Taught
from mami_core.captions.vocabulary import Vocabulary
from mami_core.tokenizers import tokenize

WORDS = ("red", "blue", "dogs", "cats", "and", "other", "on", "grass")
VOCABULARY = Vocabulary(WORDS)
PHRASES = ["red dogs", "blue cats and other dogs", "dogs on grass", "cats", "red cats on blue grass", "zebras on grass"]


def networks(vocabulary: Vocabulary = VOCABULARY) -> tuple[Captioner, LanguageModel]:
    shape = CaptionerConfig(num_features=12, hidden=16, attention_size=8, embedding=6)
    pair = Captioner(shape, vocabulary), LanguageModel(LanguageModelConfig(embedding=6, hidden=8), vocabulary)
    with torch.no_grad():
        for network in pair:
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.4)
    return pair[0].eval(), pair[1].eval()


def neurons(count: int) -> tuple[Tensor, Tensor]:
    return torch.randn(count, 4, 12), torch.ones(count, 4, dtype=torch.bool)


def in_a_row(text: str, length: int, *, whole: bool = True) -> set[tuple[str, ...]]:
    """Every so many words of a text that stand in a row; what is not whole was cut and has no stop."""
    words = ["<start>"] * (length - 1) + tokenize(text) + ["<stop>"] * whole
    return {tuple(words[at : at + length]) for at in range(len(words) - length + 1)}


def said(pair: tuple[Captioner, LanguageModel], inputs: tuple[Tensor, Tensor], config: DecodeConfig) -> list[list[str]]:
    return [[each.caption for each in beams] for beams in caption(*pair, *inputs, config)]


@pytest.mark.parametrize("strategy", ["rerank", "while_decoding", "likelihood"])
@given(
    phrases=st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=6).map(" ".join), min_size=1, max_size=8),
    length=st.integers(2, 5),
    seed=st.integers(0, 99),
    beam_size=st.sampled_from([1, 3, 10]),
)
@settings(max_examples=12)
def test_every_few_words_of_a_caption_were_taught(
    strategy: Strategy, phrases: list[str], length: int, seed: int, beam_size: int
) -> None:
    torch.manual_seed(seed)
    captioner, language_model = networks()
    captioner.taught = Taught.by(phrases, VOCABULARY, in_a_row=length)
    taught = set().union(*(in_a_row(text, length) for text in phrases))
    config = DecodeConfig(strategy=strategy, beam_size=beam_size, num_captions=beam_size, max_length=7)
    for captions in said((captioner, language_model), neurons(3), config):
        assert captions
        for text in captions:
            assert in_a_row(text, length, whole=len(text.split()) < 7) <= taught


def test_captions_are_the_best_of_those_that_were_taught() -> None:
    vocabulary = Vocabulary(("dogs", "cats", "on", "grass"))
    captioner, _ = pair = networks(vocabulary)
    inputs = neurons(3)
    # More beams than there are captions of four words: nothing is pruned.
    config = DecodeConfig(strategy="likelihood", beam_size=400, num_captions=400, max_length=4)
    every = said(pair, inputs, config)
    captioner.taught = Taught.by(["dogs on grass", "cats on dogs"], vocabulary, in_a_row=2)
    taught = in_a_row("dogs on grass", 2) | in_a_row("cats on dogs", 2)
    found = said(pair, inputs, config)
    for captions, all_of_them in zip(found, every, strict=True):
        assert captions == [text for text in all_of_them if in_a_row(text, 2, whole=len(text.split()) < 4) <= taught]
        assert {"dogs", "cats on grass", "dogs on dogs on"} <= set(captions)
    assert said(pair, inputs, replace(config, as_taught=False)) == every


def test_neighbours_change_no_bit() -> None:
    captioner, language_model = networks()
    captioner.taught = Taught.by(PHRASES, VOCABULARY, in_a_row=3)
    features, present = neurons(37)
    config = DecodeConfig(beam_size=10, num_captions=10, max_length=6, tidy=True, window=0.5)
    together = caption(captioner, language_model, features, present, config)
    order = torch.randperm(37)
    assert caption(captioner, language_model, features, present, replace(config, batch_size=48)) == together
    assert caption(captioner, language_model, features[order], present[order], config) == [together[i] for i in order]
    for row in (0, 20, 36):
        assert caption(captioner, language_model, features[[row]], present[[row]], config) == [together[row]]


@pytest.mark.parametrize("changes", [{"as_taught": False}, {"rules": "milan"}], ids=str)
def test_where_it_is_not_asked_for_captions_are_as_without(changes: dict[str, Any]) -> None:
    captioner, _ = pair = networks()
    inputs, config = neurons(4), replace(DecodeConfig(beam_size=6, num_captions=6, max_length=5), **changes)
    without = caption(*pair, *inputs, config)
    captioner.taught = Taught.by(PHRASES, VOCABULARY)
    assert caption(*pair, *inputs, config) == without
    assert caption(*pair, *inputs, replace(config, as_taught=True, rules="mami")) != without


def test_what_cannot_be_said_to_its_end_teaches_nothing() -> None:
    vocabulary = Vocabulary(("red", "dogs", "eat"))
    taught = Taught.by(["red dogs", "dogs eat bones", "red dogs eat"], vocabulary, in_a_row=2)
    assert taught is not None
    # "eat" is the last word of one and not the last of another; "bones" is no word.
    by_hand = Taught.by(["red dogs", "red dogs eat", "dogs eat"], vocabulary, in_a_row=2)
    assert by_hand is not None
    assert torch.equal(taught.sequences, by_hand.sequences)
    assert Taught.by(["dogs eat bones"], vocabulary) is None
    assert Taught.by([], vocabulary) is None


def test_a_runs_identity_says_only_what_differs_from_how_runs_began() -> None:
    plain = DecodeConfig().identity()
    assert not plain.keys() & {"as_taught", "batch_size"}
    assert DecodeConfig(batch_size=64).identity() == plain
    assert DecodeConfig(as_taught=False).identity() == plain | {"as_taught": False}
    by_evidence = DecodeConfig(evidence_weight=2.0)
    assert by_evidence.identity() == plain | {"evidence_weight": 2.0, "evidence": 6}
    assert all(DecodeConfig.identified(of.identity()) == of for of in (by_evidence, DecodeConfig()))
