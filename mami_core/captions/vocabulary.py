"""Words ↔ numbers: which number each word of a captioner has."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import get_args

from mami_core.errors import ConfigError
from mami_core.tokenizers import Tokenizer, tokenize, write

__all__ = ["PAD", "SPECIAL_WORDS", "START", "STOP", "UNKNOWN", "Vocabulary", "tokenize"]

PAD, START, STOP, UNKNOWN = range(4)
SPECIAL_WORDS = ("<pad>", "<start>", "<stop>", "<unknown>")
"""They hold the numbers 0 to 3 of every vocabulary. No text can contain them: their brackets are punctuation."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The words that a captioner can say. `list(vocabulary.words)` and the tokenizer in a JSON file restore it.

    Raises:
        ConfigError: for a word twice, or one that is not exactly one word to the tokenizer.
    """

    words: tuple[str, ...]
    """The ordinary words; the first has number 4, after the special ones."""
    tokenizer: Tokenizer = "words"
    """How texts are cut into words and written."""
    _numbers: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.tokenizer not in get_args(Tokenizer):
            raise ConfigError(f"A vocabulary's tokenizer is one of {get_args(Tokenizer)}, not {self.tokenizer!r}.")
        object.__setattr__(self, "words", tuple(self.words))
        numbers = {word: number for number, word in enumerate(self.words, start=len(SPECIAL_WORDS))}
        if len(numbers) != len(self.words):
            twice = sorted(word for word, count in Counter(self.words).items() if count > 1)
            raise ConfigError(f"A vocabulary holds each word once; these come again: {twice[:5]}.")
        if odd := [word for word in self.words if not _is_word(word, self.tokenizer)]:
            raise ConfigError(f"A vocabulary holds single lower-case words as `tokenize` gives them, not {odd[:5]}.")
        object.__setattr__(self, "_numbers", numbers)

    @classmethod
    def build(
        cls,
        descriptions: Iterable[str],
        *,
        min_count: int = 1,
        max_words: int | None = None,
        tokenizer: Tokenizer = "words",
    ) -> "Vocabulary":
        """The words that come at least `min_count` times, most frequent first, at most `max_words` of them."""
        counts = Counter(word for description in descriptions for word in tokenize(description, tokenizer))
        # Equal counts are ordered by the word itself, so that the order of the descriptions does not matter.
        ranked = sorted((-count, word) for word, count in counts.items() if count >= min_count)
        return cls(tuple(word for _, word in ranked[:max_words]), tokenizer)

    def __len__(self) -> int:
        """How many numbers there are: special and ordinary words."""
        return len(SPECIAL_WORDS) + len(self.words)

    def number(self, word: str) -> int | None:
        """Of a word; None if it is unknown."""
        return self._numbers.get(word)

    def knows(self, text: str) -> bool:
        """Whether it has every word of a text."""
        return all(word in self._numbers for word in tokenize(text, self.tokenizer))

    def encode(self, text: str, length: int) -> list[int]:
        """Exactly `length` numbers: the words, a stop word, padding.

        A longer text is cut and then has no stop word: nobody should learn to stop in the middle of a sentence.
        """
        numbers = [self._numbers.get(word, UNKNOWN) for word in tokenize(text, self.tokenizer)[:length]]
        return (numbers + [STOP] + [PAD] * length)[:length]

    def decode(self, numbers: Sequence[int]) -> str:
        """The text up to the first stop word, special words left out; but "<unknown>" shows among plain "words"."""
        words = []
        for number in numbers:
            if number == STOP:
                break
            if number >= len(SPECIAL_WORDS):
                words.append(self.words[number - len(SPECIAL_WORDS)])
            elif number == UNKNOWN and self.tokenizer == "words":
                words.append(SPECIAL_WORDS[UNKNOWN])
        return write(words, self.tokenizer)


def _is_word(word: str, tokenizer: Tokenizer) -> bool:
    if tokenizer == "words":
        return tokenize(word) == [word]
    # What spaCy makes of a word by itself is not what it makes of it in a text ("n't"), and restoring must not need it.
    return word.split() == [word] and word == word.lower() and word not in SPECIAL_WORDS
