import csv
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nltk.translate.bleu_score import SmoothingFunction, corpus_bleu

from mami_core.captions.vocabulary import tokenize
from mami_core.errors import DescriptionsError
from mami_core.metrics.bleu import BleuCounts, bleu, merged, words

sentences = st.lists(st.sampled_from(["red", "blue", "dogs", "and", "the", "circles"]), max_size=9).map(" ".join)
corpora = st.lists(st.tuples(sentences, st.lists(sentences, min_size=1, max_size=4)), min_size=1, max_size=8)


def nltk_bleu(corpus: list[tuple[str, list[str]]]) -> float:
    references = [[d.split() for d in descriptions] for _, descriptions in corpus]
    captions = [caption.split() for caption, _ in corpus]
    return 100 * corpus_bleu(references, captions, smoothing_function=SmoothingFunction().method2)


@given(corpora, st.data())
def test_merged_counts_score_as_nltk_does_on_the_whole_corpus(corpus: list, data: st.DataObject) -> None:
    counts = data.draw(st.permutations([BleuCounts.of(caption, descriptions) for caption, descriptions in corpus]))
    cut = data.draw(st.integers(0, len(counts)))
    shards = merged(counts[:cut]).merge(merged(counts[cut:]))
    assert shards == merged(BleuCounts.of(*neuron) for neuron in corpus)
    assert shards.score() == pytest.approx(nltk_bleu(corpus), rel=1e-12, abs=1e-12)


def test_all_descriptions_of_every_neuron_count() -> None:
    captions = ["red circles on a wall", "two dogs on grass"]
    descriptions = [["a plane", "trees", "red circles on a wall"], ["two dogs on grass"]]
    assert bleu(captions, descriptions) == pytest.approx(100)
    assert bleu(captions, [descriptions[0][:1], descriptions[1]]) < 60


def test_a_perfect_corpus_scores_one_hundred_and_a_foreign_one_nothing() -> None:
    texts = ["the red dogs and the blue circles", "a wall with yellow windows"]
    assert bleu(texts, [[text] for text in texts]) == pytest.approx(100)
    assert bleu(["zebra", ""], [[text] for text in texts]) == 0
    assert bleu([], []) == 0


def test_a_short_caption_pays_for_what_it_leaves_out() -> None:
    long = "dogs and the circles on a red wall"
    assert bleu(["dogs and the circles"], [[long]]) < bleu(["dogs and the circles on a"], [[long]]) < 100


def test_case_and_punctuation_do_not_count() -> None:
    assert words("Dogs' eyes, (2 of_them) – café!") == ["dogs", "eyes", "2", "of", "them", "café"]
    assert bleu(["Red, blue; and the DOGS."], [["red blue and the dogs"]]) == pytest.approx(100)


@given(st.text() | st.text(alphabet="aB9 _-'’ʼ＇e\u0301İ"))
def test_words_are_cut_as_the_vocabulary_cuts_them(text: str) -> None:
    assert words(text) == tokenize(text)


def test_a_neuron_without_descriptions_is_an_error() -> None:
    with pytest.raises(DescriptionsError, match="at least one description"):
        bleu(["dogs"], [[]])


def test_people_agree_less_with_each_other_than_with_one_constant(shared_data: Path) -> None:
    neurons = defaultdict(list)
    with (shared_data / "annotations/MILANNOTATIONS_resnet152_imagenet.csv").open() as file:
        for row in csv.DictReader(file):
            neurons[row["layer"], row["unit"]].append(row["summary"])
    described = list(neurons.values())
    assert len(described) == 3126
    for person in range(3):
        others = [texts[:person] + texts[person + 1 :] for texts in described]
        assert 0.5 < bleu([texts[person] for texts in described], others) < 1.3
    assert bleu(["rounded edges in pictures"] * len(described), described) == pytest.approx(4.5, abs=0.3)
