"""Captions of neurons whose truth is known: named, near or far, whatever the words."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mami_core.errors import ConfigError
from mami_core.metrics.known import Mentions, known_scores, right_words
from mami_core.metrics.sentences import Sentences, load_sentences

NAMES = ["dog", "goldfish", "church", "banana", "sports car", "violin"]


@pytest.fixture(scope="module")
def sentences() -> Sentences:
    return load_sentences()


def test_the_truth_itself_ranks_first(sentences: Sentences) -> None:
    found = known_scores(NAMES, range(len(NAMES)), NAMES, sentences)
    assert found.rank.tolist() == [1] * len(NAMES)
    assert torch.allclose(found.cosine, torch.ones(len(NAMES)), atol=1e-5)
    assert found.named is None


def test_what_means_the_truth_ranks_before_what_does_not(sentences: Sentences) -> None:
    right = known_scores(["brown and white dogs", "yellow fruit"], [0, 3], NAMES, sentences)
    wrong = known_scores(["brown and white dogs", "yellow fruit"], [3, 0], NAMES, sentences)
    assert (right.rank == 1).all()
    assert (wrong.rank > 2).all()
    assert (right.cosine > wrong.cosine).all()


def test_one_caption_for_all_has_the_middle_rank_on_average(sentences: Sentences) -> None:
    found = known_scores(["grey areas"] * len(NAMES), range(len(NAMES)), NAMES, sentences)
    assert found.rank.mean() == (len(NAMES) + 1) / 2


def test_equal_names_share_their_rank(sentences: Sentences) -> None:
    found = known_scores(["dogs"], [0], ["dog", "dog", "violin"], sentences)
    assert found.rank.tolist() == [1.5]


def test_a_caption_names_its_neuron_in_singular_or_plural(sentences: Sentences) -> None:
    right = [["dog", "animal"], ["goldfish", "fish"], ["church"], ["berry"], ["sports car", "car"], ["wolf"]]
    captions = ["two dogs", "cats", "Churches, seen from below", "blackberries", "red cars", "a pack of wolves"]
    found = known_scores(captions, range(6), NAMES, sentences, right_words=right)
    assert found.named is not None
    assert found.named.tolist() == [True, False, True, False, True, True]


@given(st.sampled_from(["cat", "bus", "box", "glass", "bench", "lens", "house", "tie", "leaf", "person", "sports car"]))
def test_a_word_is_inside_texts_with_it_and_in_no_other_word(word: str) -> None:
    plural = {"leaf": "leaves", "person": "people"}.get(word, word + ("es" if word[-1] in "xsh" else "s"))
    assert Mentions([word]).inside(f"the {plural} of a street")
    assert Mentions([plural]).inside(f"the {word}, seen twice")
    assert not Mentions([word]).inside(f"{word}egory and {word}astrophe")


def test_lengths_that_do_not_fit_are_refused(sentences: Sentences) -> None:
    with pytest.raises(ConfigError, match="expected a truth below 6 for each of 1 captions"):
        known_scores(["dogs"], [6], NAMES, sentences)
    with pytest.raises(ConfigError, match="expected the right words of 6 names, got 1"):
        known_scores(["dogs"], [0], NAMES, sentences, right_words=[["dog"]])


def test_a_vector_does_not_depend_on_the_texts_beside_it(sentences: Sentences) -> None:
    texts = [f"{name} {'on green grass ' * (n % 4)}" for n, name in enumerate(NAMES * 7)]
    together = sentences.embed(texts)
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0)).tolist()
    assert torch.equal(sentences.embed([texts[i] for i in order]), together[order])
    assert torch.equal(sentences.embed(texts[3:4]), together[3:4])


@pytest.mark.skipif(
    not Path(os.environ.get("NLTK_DATA", "/nowhere"), "corpora/wordnet.zip").is_file(),
    reason="needs nltk's WordNet below NLTK_DATA",
)
def test_wordnet_says_what_a_class_is_a_kind_of() -> None:
    (dog,) = right_words(["n02084071"])
    assert {"dog", "canine", "mammal", "animal"} <= set(dog)
    assert not {"object", "whole", "entity"} & set(dog)
    with pytest.raises(ConfigError, match="expected WordNet ids"):
        right_words(["n00000001"])
