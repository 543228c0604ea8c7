"""The word "often", by how many exemplars a caption is true of."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mami_core.captions.decode import caption
from mami_core.captions.decode_config import DecodeConfig
from mami_core.captions.evidence import Weighed
from mami_core.captions.quantity import OFTEN, first_of_same, said_of_so_many
from mami_core.captions.ranking import Found, ranked
from mami_core.captions.vocabulary import Vocabulary
from mami_core.contracts import Beam
from tests.core.captions.test_evidence import WORDS, captioner, evidence, neurons

VOCABULARY = Vocabulary(
    ("black", "dogs", "on", "grass", OFTEN, "the", "left", "side", "top", "of", "pictures", "picture", "at")
)
LENGTH = 8
CONFIG = DecodeConfig(evidence_weight=1.5, beam_size=40, num_captions=40, max_length=LENGTH, tidy=True)


def said(text: str, support: float, length: int = 8) -> str:
    words = torch.tensor([[VOCABULARY.encode(text, length)]])
    return VOCABULARY.decode(said_of_so_many(VOCABULARY, words, torch.tensor([[support]]))[0, 0].tolist())


@pytest.mark.parametrize(
    ("text", "support", "expected"),
    [
        ("black dogs", 0.5, "often black dogs"),
        ("black dogs", 0.66, "often black dogs"),
        ("black dogs", 0.67, "black dogs"),
        ("black dogs", 0.4, "black dogs"),
        ("black dogs", float("nan"), "black dogs"),
        ("often black dogs", 0.5, "often black dogs"),
        ("often black dogs", 0.7, "black dogs"),
        ("often black dogs", 0.2, "often black dogs"),
        ("dogs often on grass", 0.5, "dogs often on grass"),
        ("dogs often on grass", 0.9, "dogs often on grass"),
        ("often", 0.9, "often"),
        ("the left side of pictures", 0.5, "often at the left side of pictures"),
        ("the left side of pictures", 0.7, "the left side of pictures"),
        ("the top of the picture", 0.5, "often at the top of the picture"),
        ("the dogs", 0.5, "often the dogs"),
        ("the dogs at side of pictures", 0.5, "often the dogs at side of pictures"),
        ("dogs at the left of pictures", 0.5, "often dogs at the left of pictures"),
    ],
)
def test_often_is_said_of_what_is_true_of_half_and_not_of_what_is_true_of_most(
    text: str, support: float, expected: str
) -> None:
    assert said(text, support) == expected


def test_a_caption_without_room_or_a_vocabulary_without_the_word_stays_as_it_is() -> None:
    assert said("black dogs on grass", 0.5, length=5) == "black dogs on grass", "five words with the stop word, of five"
    assert said("black dogs on grass", 0.5, length=6) == "often black dogs on grass"
    assert said("the side of pictures", 0.5, length=6) == "the side of pictures", "for one more, of two"
    without = Vocabulary(("black", "dogs"))
    words = torch.tensor([[without.encode("black dogs", 5)]])
    assert said_of_so_many(without, words, torch.tensor([[0.5]])) is words


@given(st.lists(st.tuples(st.sampled_from(["black", "dogs", "often dogs", "often"]), st.integers(0, 3)), min_size=1))
def test_of_captions_in_the_same_words_the_best_is_left(captions: list[tuple[str, int]]) -> None:
    words = torch.tensor([[VOCABULARY.encode(text, 5) for text, _ in captions]])
    scores = torch.tensor([[float(score) for _, score in captions]])
    expected = {}
    for number, (text, _) in sorted(enumerate(captions), key=lambda one: -one[1][1]):
        expected.setdefault(text.removeprefix("often "), number)
    assert first_of_same(VOCABULARY, words, scores)[0].nonzero().flatten().tolist() == sorted(expected.values())


@given(
    st.permutations(["the side of pictures", "often the side of pictures", "black dogs", "often black dogs", "dogs"])
)
def test_no_caption_of_half_comes_twice_whatever_is_said_before_it(captions: list[str]) -> None:
    words = torch.tensor([[VOCABULARY.encode(text, LENGTH) for text in captions]])
    evidence = Weighed(worth=torch.zeros(1, 5), support=torch.full((1, 5), 0.5))
    found = Found(words, -torch.arange(5.0)[None], None, evidence)
    best, scores, *_ = ranked(VOCABULARY, None, found, replace(CONFIG, strategy="likelihood"))
    texts = [VOCABULARY.decode(each.tolist()) for each in best[0][scores[0].isfinite()]]
    assert len(texts) == 3
    assert {text.removeprefix("often ").removeprefix("at ") for text in texts} == {
        "the side of pictures",
        "black dogs",
        "dogs",
    }


def test_captions_of_a_run_say_how_many_and_none_comes_twice() -> None:
    words = (*WORDS, OFTEN)
    pair = captioner(evidence(vocabulary=Vocabulary(words)), words)
    features, present = neurons(60)
    by_neuron = caption(*pair, features, present, CONFIG)
    begins = {half: {beam.caption.startswith(OFTEN) for beam in beams_of(by_neuron, half)} for half in (True, False)}
    assert begins == {True: {True}, False: {False}}
    for beams in by_neuron:
        assert len({beam.caption.removeprefix(f"{OFTEN} ") for beam in beams}) == len(beams)
    as_found = caption(*pair, features, present, replace(CONFIG, evidence_weight=0.0))
    assert not all(beam.caption.startswith(OFTEN) for beam in beams_of(as_found, True))


def beams_of(by_neuron: list[list[Beam]], half: bool) -> list[Beam]:
    """Those with room for a word and no "often" within, that are true of about half of the exemplars; or of most."""
    beams = [beam for beams in by_neuron for beam in beams if beam.support is not None]
    some = [beam for beam in beams if OFTEN not in beam.caption.split()[1:] and beam.caption != OFTEN]
    if half:
        return [beam for beam in some if 0.45 <= (beam.support or 0) < 0.66 and len(beam.caption.split()) < LENGTH - 1]
    return [beam for beam in some if (beam.support or 0) > 0.67]
