"""BLEU as papers print it: nltk's and sacreBLEU's own results, from counts that shards add."""

import warnings
from typing import Any

import pytest
import sacrebleu as library
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.translate.bleu_score import corpus_bleu

from mami_core.metrics import published, table
from mami_core.metrics.baselines import DescribedNeuron
from mami_core.metrics.bleu import merged
from mami_core.metrics.published import milan_counts, milan_words, sacrebleu
from mami_core.metrics.summary import summary

pytest.importorskip("spacy", reason="its rules cut MILAN's words")

TEXTS = st.lists(
    st.sampled_from(["a", "dog's", "red,", "black-and-white", "heads", "the", "dogs."]), min_size=1, max_size=9
)
NEURONS = st.lists(st.tuples(TEXTS.map(" ".join), st.lists(TEXTS.map(" ".join), min_size=1, max_size=3)), min_size=1)


@settings(max_examples=60)
@given(NEURONS)
def test_unsmoothed_bleu_over_milans_words_is_nltks(neurons: list[tuple[str, list[str]]]) -> None:
    found = merged(milan_counts(caption, texts) for caption, texts in neurons).score(smoothed=False)
    references = [[list(milan_words(text)) for text in texts] for _, texts in neurons]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nltk warns where it gives next to nothing
        expected = 100 * corpus_bleu(references, [list(milan_words(caption)) for caption, _ in neurons])
    assert found == pytest.approx(expected, abs=1e-9)


def test_punctuation_counts() -> None:
    assert milan_counts("a dog's head, red", ["a dogs head red"]).num_caption_words == 6
    whole = merged([milan_counts("black-and-white dogs", ["black-and-white dogs"])])
    assert whole.score(smoothed=False) == pytest.approx(100)


def test_sacrebleu_is_its_own_and_says_how() -> None:
    captions, descriptions = ["A dog's head.", "red sky"], [["a dog head", "the dog's head"], ["red skies at night"]]
    score, signature = sacrebleu(captions, descriptions)
    references: Any = [["a dog head", "red skies at night"], ["the dog's head", None]]
    plain = library.corpus_bleu(["a dog's head", "red sky"], references)
    assert score == pytest.approx(plain.score)
    assert signature == f"nrefs:var|case:mixed|eff:no|tok:13a|smooth:exp|version:{library.__version__}"


def test_a_description_more_never_lowers_what_is_shared() -> None:
    captions = ["a red dog on the wall", "round blue things"]
    few = sacrebleu(captions, [["a red dog on a wall"], ["round blue things here"]])[0]
    more = sacrebleu(captions, [["a red dog on a wall", "a red dog on the wall"], ["round blue things here"]])[0]
    assert more > few


def test_without_spacy_only_its_column_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:

    neurons = [DescribedNeuron(layer="a", unit=i, caption="red dogs", descriptions=("red dogs here",)) for i in (0, 1)]

    def scored() -> list[dict]:
        scores = table.score_neurons(neurons, training=[("red",)], generator=torch.Generator())
        assert "version:" in summary(scores)
        return scores.to_pylist()

    assert all(row["bleu_nltk"] is not None for row in scored())
    monkeypatch.setattr(table, "has_milan_words", lambda: False)
    assert all(row["bleu_nltk"] is None and row["sacrebleu"] >= 0 for row in scored())
    assert published.has_milan_words()
