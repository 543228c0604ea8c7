"""The nouns of WordNet (Miller, 1995), read from its own files: `data.noun` and `index.noun` (see `wndb(5WN)`)."""

import functools
import zipfile
from dataclasses import dataclass
from pathlib import Path

from mami_core.errors import ConfigError

_DATA, _INDEX = "data.noun", "index.noun"
_HYPERNYMS = ("@", "@i")


@dataclass(frozen=True, slots=True)
class Synset:
    """One meaning."""

    number: int
    """Its offset in `data.noun`: "n02084071" in ImageNet's names."""
    lemmas: tuple[str, ...]
    """What it is called, the commonest first, with spaces and in lower case."""
    hypernyms: tuple[int, ...]
    """The numbers of what it is a kind of."""


class WordNet:
    """Meanings of nouns, and what each is a kind of."""

    def __init__(self, path: str | Path) -> None:
        """Read a folder that holds `data.noun` and `index.noun`, or a zip file of one. Takes about a second.

        Raises:
            ConfigError: there are no such files, or they are in another format.
        """
        try:
            data, index = _read(Path(path))
            self._synsets = {synset.number: synset for synset in map(_synset, _lines(data))}
            self._senses = dict(map(_senses, _lines(index)))
        except (OSError, KeyError, ValueError, IndexError, zipfile.BadZipFile) as error:
            raise ConfigError(
                f"{path}: expected WordNet, a folder that holds {_DATA} and {_INDEX} or a zip file of one; "
                f"it cannot be read: {error}"
            ) from error

    def numbered(self, wordnet_id: str) -> Synset | None:
        """By ImageNet's name, such as "n02084071"."""
        number = wordnet_id.removeprefix("n")
        return self._synsets.get(int(number)) if number.isdecimal() else None

    def named(self, name: str) -> Synset | None:
        """By lemma and sense, such as "dog.n.01"; none where WordNet has no such one."""
        lemma, _, sense = name.rpartition(".n.")
        senses = self._senses.get(lemma.replace("_", " ").lower(), ())
        return self._synsets[senses[int(sense) - 1]] if sense.isdecimal() and 0 < int(sense) <= len(senses) else None

    def meaning(self, name: str) -> Synset | None:
        """What a name means most often. A compound that WordNet lacks means what its last word means."""
        name = name.lower()
        while name:
            for form in (name, name.removesuffix("s"), name.removesuffix("es")):
                if form in self._senses:
                    return self._synsets[self._senses[form][0]]
            name = name.partition(" ")[2]
        return None

    @functools.cache  # noqa: B019  # one WordNet a process
    def ancestors(self, number: int) -> dict[int, int]:
        """A synset and all that it is a kind of, each with the length of its shortest way to the root."""
        found: dict[int, int] = {}
        synset = self._synsets[number]
        for parent in synset.hypernyms:
            found |= self.ancestors(parent)
        return found | {number: 1 + min((found[parent] for parent in synset.hypernyms), default=-1)}

    def lemmas(self, number: int) -> tuple[str, ...]:
        """What a synset is called."""
        return self._synsets[number].lemmas


def _read(path: Path) -> tuple[bytes, bytes]:
    if path.is_dir():
        return (path / _DATA).read_bytes(), (path / _INDEX).read_bytes()
    with zipfile.ZipFile(path) as archive:
        inside = {Path(name).name: name for name in archive.namelist()}
        return archive.read(inside[_DATA]), archive.read(inside[_INDEX])


def _lines(data: bytes) -> list[str]:
    """Without the licence at the top, whose lines start with spaces."""
    return [line for line in data.decode("utf-8").splitlines() if line and not line.startswith(" ")]


def _synset(line: str) -> Synset:
    fields = line.partition(" | ")[0].split()
    num_words = int(fields[3], 16)
    lemmas = tuple(word.replace("_", " ").lower() for word in fields[4 : 4 + 2 * num_words : 2])
    pointers = fields[5 + 2 * num_words :]
    hypernyms = [
        int(pointers[i + 1]) for i in range(0, 4 * int(fields[4 + 2 * num_words]), 4) if pointers[i] in _HYPERNYMS
    ]
    return Synset(int(fields[0]), lemmas, tuple(hypernyms))


def _senses(line: str) -> tuple[str, tuple[int, ...]]:
    """A lemma's synsets, the most frequent first; they are the last fields of its line."""
    fields = line.split()
    return fields[0].replace("_", " ").lower(), tuple(map(int, fields[-int(fields[2]) :]))
