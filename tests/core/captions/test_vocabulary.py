"""Words ↔ numbers."""

import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mami_core.captions.vocabulary import PAD, SPECIAL_WORDS, START, STOP, UNKNOWN, Vocabulary, tokenize
from mami_core.errors import ConfigError

texts = st.lists(st.text(), max_size=8)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A dog's head, close-up.", ["a", "dog's", "head", "close", "up"]),
        ("the dogs\u2019 ears", ["the", "dogs", "ears"]),
        ("the dog\u2019s ears", ["the", "dog's", "ears"]),
        ("'quoted' words -- and_underscores", ["quoted", "words", "and", "underscores"]),
        ("2 windows; 3rd\tdoor\n", ["2", "windows", "3rd", "door"]),
        ("cafe\u0301", ["caf\u00e9"]),
        ("<start> <pad>", ["start", "pad"]),
        ("... !", []),
    ],
)
def test_punctuation_only_separates_words(text: str, words: list[str]) -> None:
    assert tokenize(text) == words


@given(st.text())
def test_words_are_words_to_the_tokenizer(text: str) -> None:
    words = tokenize(text)
    assert tokenize(" ".join(words)) == words
    assert not set(words) & set(SPECIAL_WORDS)


@given(texts)
def test_every_word_comes_back(descriptions: list[str]) -> None:
    vocabulary = Vocabulary.build(descriptions)
    for description in descriptions:
        words = tokenize(description)
        numbers = vocabulary.encode(description, len(words) + 3)
        assert numbers[len(words) :] == [STOP, PAD, PAD]
        assert vocabulary.decode(numbers) == " ".join(words)


@given(texts)
def test_json_restores_a_vocabulary(descriptions: list[str]) -> None:
    vocabulary = Vocabulary.build(descriptions)
    assert Vocabulary(tuple(json.loads(json.dumps(vocabulary.words)))) == vocabulary


@given(st.permutations(["red red red", "blue blue", "green", "yellow blue"]))
def test_order_of_descriptions_does_not_matter(descriptions: list[str]) -> None:
    assert Vocabulary.build(descriptions).words == ("blue", "red", "green", "yellow")


def test_rare_words_are_left_out() -> None:
    descriptions = ["red red blue", "blue green"]
    assert Vocabulary.build(descriptions, min_count=2).words == ("blue", "red")
    assert Vocabulary.build(descriptions, max_words=1).words == ("blue",)
    assert len(Vocabulary.build(descriptions, min_count=2)) == 6


def test_unknown_words_are_said_to_be_unknown() -> None:
    vocabulary = Vocabulary(("red",))
    assert vocabulary.encode("red blue", 4) == [4, UNKNOWN, STOP, PAD]
    assert vocabulary.decode([START, 4, UNKNOWN, STOP, 4]) == "red <unknown>"


def test_a_text_that_is_cut_has_no_stop_word() -> None:
    vocabulary = Vocabulary(("a", "b"))
    assert vocabulary.encode("a b a", 2) == [4, 5]
    assert vocabulary.encode("a b", 2) == [4, 5]
    assert vocabulary.encode("a b", 3) == [4, 5, STOP]


@pytest.mark.parametrize("words", [("red", "red"), ("<stop>",), ("two words",), ("Upper",), ("",), ("black-white",)])
def test_impossible_vocabularies_are_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError):
        Vocabulary(words)


@given(st.lists(st.text(string.ascii_lowercase, min_size=1), unique=True))
def test_numbers_follow_the_special_words(words: list[str]) -> None:
    vocabulary = Vocabulary(tuple(words))
    assert [vocabulary.encode(word, 1)[0] for word in words] == list(range(4, 4 + len(words)))
