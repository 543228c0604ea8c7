"""Text ↔ words: how descriptions are cut into words, and how words are written back as text.

"words" keeps letters and digits, and writes them with a blank in between. "spacy" cuts as MILAN does (Hernandez et al.,
2022, arXiv 2201.11114), by spaCy's rules for English: punctuation and endings such as "'s" are words too, and are
written where people put them. The rules come with the package `spacy`; no model of it is used, nothing is downloaded.
"""

import functools
import re
import unicodedata
from collections.abc import Callable, Iterable
from typing import Any, Literal

from mami_core.errors import ConfigError

Tokenizer = Literal["words", "spacy"]

# Letters and digits; an apostrophe stays inside a word ("dog's"), a hyphen separates ("black-and-white" is three words,
# so that it shares them with "black and white").
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
_APOSTROPHES = str.maketrans({"\u2019": "'", "\u02bc": "'", "\uff07": "'"})

_CLOSING = frozenset(".,;:!?)]}%…”’") | {"...", "n't", "n’t"}
_OPENING = frozenset("([{$#“‘")
_JOINING = frozenset("-/–")
_ENDING = re.compile(r"['’](?:s|d|m|re|ve|ll)")


def tokenize(text: str, tokenizer: Tokenizer = "words") -> list[str]:
    """The words of a text in lower case; white space only separates them, and so does punctuation for "words".

    Raises:
        ConfigError: "spacy", where spaCy is not installed.
    """
    return _CUT[tokenizer](text)


def write(words: Iterable[str], tokenizer: Tokenizer = "words") -> str:
    """The words as people would write them, in lower case as they are.

    For "spacy" punctuation stands where it belongs: "a dog's head, close-up". Cut again, what people wrote gives the
    same words.
    """
    return " ".join(words) if tokenizer == "words" else _written(words)


def _letters_and_digits(text: str) -> list[str]:
    if not text.isascii():
        # One spelling for one word: a composed é, a plain apostrophe.
        text = unicodedata.normalize("NFC", text).translate(_APOSTROPHES)
    return _WORD.findall(text.lower())


def _english(text: str) -> list[str]:
    # In lower case after cutting, as MILAN does: the rules see capitals.
    return [token.text.lower() for token in _spacy_tokenizer()(text) if token.text.strip()]


_CUT: dict[Tokenizer, Callable[[str], list[str]]] = {"words": _letters_and_digits, "spacy": _english}


@functools.cache
def _spacy_tokenizer() -> Any:
    try:
        from spacy.lang.en import English
    except ImportError as error:
        raise ConfigError(
            "The tokenizer 'spacy' cuts texts with the package spaCy, which is not installed here: "
            "pip install 'mami[milan]'. Captioning alone does not need it."
        ) from error
    return English().tokenizer


def _written(words: Iterable[str]) -> str:
    text, tight, open_marks = "", True, set[str]()
    for word in words:
        quote = word if word in ('"', "'") else ""
        closing = word in _CLOSING or word in _JOINING or bool(_ENDING.fullmatch(word)) or quote in open_marks
        # The apostrophe of "dogs' ears", where no quotation is open.
        closing |= word == "'" and text.endswith("s")
        text += word if tight or closing else f" {word}"
        tight = word in _OPENING or word in _JOINING or (bool(quote) and not closing)
        if quote:
            open_marks ^= {quote} if quote in open_marks or not closing else set()
    return text
