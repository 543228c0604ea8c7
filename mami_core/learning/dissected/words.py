"""From the names that photographs are annotated with to the words that people use for what neurons look for.

`words.json` lists the words, each with the WordNet synsets (Miller, 1995) whose hyponyms it covers ("-" before those
that it does not), and with names ("=" before them). A name is a word too, in the plural: "golden retriever" gives
"golden retrievers", "retrievers", "dogs" and "animals".
"""

import functools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mami_core.learning.dissected.wordnet import Synset, WordNet

Kind = Literal["thing", "look", "part", "stuff", "scene", "material", "colour", "low", "place"]


@dataclass(frozen=True, slots=True)
class Word:
    """A word for what a region shows."""

    text: str
    kind: Kind
    own: bool = False
    """Whether it is a name's own plural, and not a word for a group."""


class Lexicon:
    """What names mean, as words."""

    def __init__(self, wordnet: WordNet | None = None, words: Mapping[str, Any] | None = None) -> None:
        """Read the words of this package, or others of the same form.

        Args:
            wordnet: Without it, names are found under words only where these list them.
            words: Contents of a file such as `words.json`.
        """
        self.wordnet = wordnet
        self._words = dict(words) if words is not None else packaged_words()
        self._mass = frozenset(self._words["mass"])
        self._names: dict[str, list[Word]] = {}
        self._synsets: dict[int, list[Word]] = {}
        self._never: dict[int, list[Word]] = {}
        for section, kind in (("things", "thing"), ("looks", "look")):
            for text, members in self._words[section].items():
                for member in members:
                    self._file(Word(text, kind), member)
        for section, kind in (("parts", "part"), ("stuff", "stuff"), ("scenes", "scene"), ("materials", "material")):
            for text, members in self._words[section].items():
                for member in members:
                    self._names.setdefault(member, []).append(Word(text, kind))

    @functools.cache  # noqa: B019  # a lexicon lives as long as the process
    def words(self, name: str, wordnet_id: str | None = None) -> tuple[Word, ...]:
        """The words for a name, its own first; each once."""
        name = " ".join(name.lower().replace("_", " ").split())
        found = list(self._names.get(name, []))
        synset = self._synset(name, wordnet_id)
        if self.wordnet is not None and synset is not None:
            ancestors = self.wordnet.ancestors(synset.number)
            never = {word for ancestor in ancestors for word in self._never.get(ancestor, [])}
            found += [word for ancestor in ancestors for word in self._synsets.get(ancestor, []) if word not in never]
        unnamed = (
            any(word.kind in ("part", "stuff", "scene", "material") for word in found)
            or name in self._words["adjectives"]
        )
        own = [] if unnamed else [Word(self.plural(name), "thing", own=True)]
        texts = {word.text for word in found}
        return tuple(dict.fromkeys([*(word for word in own if word.text not in texts), *found]))

    @functools.cache  # noqa: B019
    def classes(self, word: Word) -> tuple[int, ...]:
        """The ImageNet classes that a word covers; none without WordNet."""
        if self.wordnet is None:
            return ()
        return self._classes.get(word, ())

    @functools.cached_property
    def _classes(self) -> dict[Word, tuple[int, ...]]:
        found: dict[Word, list[int]] = {}
        for number in range(len(self._words["imagenet"].split())):
            for word in self.words_of_class(number):
                found.setdefault(word, []).append(number)
        return {word: tuple(numbers) for word, numbers in found.items()}

    def words_of_class(self, number: int) -> tuple[Word, ...]:
        """The words for a class of ImageNet."""
        return self.words(self.class_name(number), self._words["imagenet"].split()[number])

    def class_name(self, number: int) -> str:
        """What WordNet calls a class of ImageNet."""
        if self.wordnet is None:
            return ""
        synset = self.wordnet.numbered(self._words["imagenet"].split()[number])
        return "" if synset is None else synset.lemmas[0]

    def head(self, word: Word) -> Word | None:
        """What the head of such an animal is called; none for words without a head."""
        text = self._words["heads"].get(word.text) if word.kind == "thing" else None
        return Word(text, "part") if text else None

    def all_words(self) -> tuple[Word, ...]:
        """Every word for a group."""
        found = [word for words in (*self._names.values(), *self._synsets.values()) for word in words]
        return tuple(dict.fromkeys(found))

    def _file(self, word: Word, member: str) -> None:
        if member.startswith("="):
            self._names.setdefault(member.removeprefix("="), []).append(word)
        elif self.wordnet is not None and (synset := self.wordnet.named(member.removeprefix("-"))) is not None:
            index = self._never if member.startswith("-") else self._synsets
            index.setdefault(synset.number, []).append(word)

    def _synset(self, name: str, wordnet_id: str | None) -> Synset | None:
        if self.wordnet is None:
            return None
        if wordnet_id is not None:
            return self.wordnet.numbered(wordnet_id)
        sense = self._words["senses"].get(name)
        return self.wordnet.named(sense) if sense else self.wordnet.meaning(name)

    def plural(self, name: str) -> str:
        """A noun in the plural; "box of tea" and the like keep their end."""
        if name in self._words["plural"]:
            return self._words["plural"][name]
        first, _, last = name.rpartition(" ")
        if name in self._mass or last in self._mass:
            return name
        if " of " in name or " in " in name or " with " in name:
            head, rest = name.split(" ", 1)
            return f"{self.plural(head)} {rest}"
        ended = self._words["plural"].get(last) or _plural(last)
        return f"{first} {ended}".strip()


def packaged_words() -> dict[str, Any]:
    """The contents of `words.json`."""
    return json.loads((Path(__file__).parent / "words.json").read_text(encoding="utf-8"))


def _plural(noun: str) -> str:
    if noun.endswith(("fish", "grouse", "sheep")) or (noun.endswith("s") and not noun.endswith(("ss", "us", "is"))):
        return noun
    if noun.endswith(("s", "x", "z", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return noun[:-1] + "ies"
    if noun.endswith("man"):
        return noun[:-2] + "en"
    return noun + "s"


def names_it(caption: str, names: Iterable[str]) -> bool:
    """Whether a caption says one of the names, in the singular or plural."""
    said = f" {caption.lower()} "
    return any(f" {form} " in said for name in names for form in (name.lower(), _ended(name.lower())))


def _ended(name: str) -> str:
    first, _, last = name.rpartition(" ")
    return f"{first} {_plural(last)}".strip()
