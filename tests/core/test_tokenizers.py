"""Texts cut into words, and words written as people write them."""

import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mami_core.captions.vocabulary import PAD, START, STOP, UNKNOWN, Vocabulary
from mami_core.errors import ConfigError
from mami_core.tokenizers import tokenize, write

pytest.importorskip("spacy", reason="its rules for English cut MILAN's texts")

PEOPLE = Path("../shared/data/annotations/MILANNOTATIONS_resnet152_imagenet.csv")

SENTENCES = [
    ("Black-and-white dogs' heads", "black - and - white dogs ' heads"),
    ("The cat's ears, and a bird's", "the cat 's ears , and a bird 's"),
    ('The (left) side of "round" things; rows: up/down.', 'the ( left ) side of " round " things ; rows : up / down .'),
    ("It can't be 'red'", "it ca n't be ' red '"),
    ("50% of $5...", "50 % of $ 5 ..."),
    ("top-left corner", "top - left corner"),
    ("plain words", "plain words"),
    ("", ""),
]


@pytest.mark.parametrize(("text", "words"), SENTENCES)
def test_punctuation_and_endings_are_words(text: str, words: str) -> None:
    assert tokenize(text, "spacy") == words.split()
    assert write(words.split(), "spacy") == text.lower()


@given(st.lists(st.sampled_from([text for text, _ in SENTENCES if text]), min_size=1, max_size=4))
def test_what_people_write_comes_back(sentences: list[str]) -> None:
    text = ", ".join(sentence.strip(".") for sentence in sentences)
    words = tokenize(text, "spacy")
    assert tokenize(write(words, "spacy"), "spacy") == words


def test_what_people_wrote_of_neurons_comes_back() -> None:
    if not PEOPLE.exists():
        pytest.skip(f"needs {PEOPLE}")
    with PEOPLE.open() as file:
        texts = [row["summary"] for row in csv.DictReader(file)][::9]
    words = [tokenize(text, "spacy") for text in texts]
    assert [tokenize(write(each, "spacy"), "spacy") for each in words] == words
    same = sum(write(each, "spacy") == text.strip().lower() for each, text in zip(words, texts, strict=True))
    assert same > 0.97 * len(texts)  # the others have two blanks, or a blank before a comma


def test_a_vocabulary_holds_punctuation() -> None:
    vocabulary = Vocabulary.build(["a dog's head", "a dog's tail, black-white"], tokenizer="spacy")
    assert {"'s", ",", "-"} < set(vocabulary.words)
    numbers = vocabulary.encode("A dog's head, black-white.", 12)
    assert numbers[8:] == [UNKNOWN, STOP, PAD, PAD]  # the full stop was never seen
    assert vocabulary.decode(numbers) == "a dog's head, black-white"


def test_special_words_inside_a_caption_are_not_written() -> None:
    vocabulary = Vocabulary(("a", "dog", "'s"), "spacy")
    assert vocabulary.decode([4, PAD, 5, START, UNKNOWN, 6, STOP, 4]) == "a dog's"


@pytest.mark.parametrize("words", [("Upper",), ("two words",), ("",), ("<stop>",), ("a", "a")])
def test_impossible_vocabularies_are_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError):
        Vocabulary(words, "spacy")


def test_an_unknown_tokenizer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import jaxtyping

    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ConfigError, match="tokenizer"):
        Vocabulary(("a",), "bytes")  # pyrefly: ignore
