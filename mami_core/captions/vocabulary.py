"""Words ↔ numbers: how descriptions are cut into words, and which number each word has."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from mami_core.errors import ConfigError

PAD, START, STOP, UNKNOWN = range(4)
SPECIAL_WORDS = ("<pad>", "<start>", "<stop>", "<unknown>")
"""They hold the numbers 0 to 3 of every vocabulary. No text can contain them: their brackets are punctuation."""

# Letters and digits; an apostrophe stays inside a word ("dog's"), a hyphen separates ("black-and-white" is three words,
# so that it shares them with "black and white").
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
_APOSTROPHES = str.maketrans({"\u2019": "'", "\u02bc": "'", "\uff07": "'"})


def tokenize(text: str) -> list[str]:
    """The words of a text in lower case; punctuation and white space only separate them."""
    if not text.isascii():
        # One spelling for one word: a composed é, a plain apostrophe.
        text = unicodedata.normalize("NFC", text).translate(_APOSTROPHES)
    return _WORD.findall(text.lower())


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The words that a captioner can say. `list(vocabulary.words)` in a JSON file restores it.

    Raises:
        ConfigError: for a word twice, or one that is not exactly one word to `tokenize`.
    """

    words: tuple[str, ...]
    """The ordinary words; the first has number 4, after the special ones."""
    _numbers: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", tuple(self.words))
        numbers = {word: number for number, word in enumerate(self.words, start=len(SPECIAL_WORDS))}
        if len(numbers) != len(self.words):
            twice = sorted(word for word, count in Counter(self.words).items() if count > 1)
            raise ConfigError(f"A vocabulary holds each word once; these come again: {twice[:5]}.")
        if odd := [word for word in self.words if tokenize(word) != [word]]:
            raise ConfigError(f"A vocabulary holds single lower-case words as `tokenize` gives them, not {odd[:5]}.")
        object.__setattr__(self, "_numbers", numbers)

    @classmethod
    def build(cls, descriptions: Iterable[str], *, min_count: int = 1, max_words: int | None = None) -> "Vocabulary":
        """The words that come at least `min_count` times, most frequent first, at most `max_words` of them."""
        counts = Counter(word for description in descriptions for word in tokenize(description))
        # Equal counts are ordered by the word itself, so that the order of the descriptions does not matter.
        ranked = sorted((-count, word) for word, count in counts.items() if count >= min_count)
        return cls(tuple(word for _, word in ranked[:max_words]))

    def __len__(self) -> int:
        """How many numbers there are: special and ordinary words."""
        return len(SPECIAL_WORDS) + len(self.words)

    def encode(self, text: str, length: int) -> list[int]:
        """Exactly `length` numbers: the words, a stop word, padding.

        A longer text is cut and then has no stop word: nobody should learn to stop in the middle of a sentence.
        """
        numbers = [self._numbers.get(word, UNKNOWN) for word in tokenize(text)[:length]]
        return (numbers + [STOP] + [PAD] * length)[:length]

    def decode(self, numbers: Sequence[int]) -> str:
        """The text up to the first stop word or padding; an unknown word shows as "<unknown>"."""
        words = []
        for number in numbers:
            if number in (STOP, PAD):
                break
            if number != START:
                words.append(SPECIAL_WORDS[number] if number == UNKNOWN else self.words[number - len(SPECIAL_WORDS)])
        return " ".join(words)
