"""What the captioner learns to say of each neuron, and which neurons it may learn from."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mami_core.captions.vocabulary import tokenize
from mami_core.errors import ConfigError, DescriptionsError
from mami_core.learning.descriptions import Neuron

Part = Literal["train", "validation", "test"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetsConfig:
    """How a neuron's several descriptions become targets."""

    join: bool = False
    """One compound description a neuron, as in MAMI's compound data set, instead of one target a description.

    Off by default: several people's descriptions are several answers to the same question. Kept apart, log p(c | E)
    is how likely a person is to say c; a compound has an arbitrary order, its length grows with the number of
    annotators, and there is no second reference left to compare with. Join them to get captions that list everything
    that people saw.
    """
    max_words: int = 30
    """A compound takes further descriptions only as long as it has no more words than this."""

    def __post_init__(self) -> None:
        if self.max_words < 1:
            raise ConfigError(f"max_words: expected at least 1, found {self.max_words}.")


def targets(descriptions: Sequence[str], config: TargetsConfig) -> tuple[str, ...]:
    """What to learn for one neuron: its descriptions, or the one that joins them."""
    return (compound(descriptions, max_words=config.max_words),) if config.join else tuple(descriptions)


def compound(descriptions: Sequence[str], *, max_words: int) -> str:
    """One long description that says all of them: "a", "a and b", "a, b and c".

    A description whose words another one contains in the same order adds nothing and is left out. The first always
    stays; later ones are left out where they would make the compound longer than `max_words`.
    """
    said: list[str] = []
    for text in _without_repetitions(descriptions):
        if not said or len(tokenize(_listed([*said, text]))) <= max_words:
            said.append(text)
    return _listed(said)


def _without_repetitions(descriptions: Sequence[str]) -> list[str]:
    """In their order, without those that occur inside another one (of equal ones the first stays)."""
    kept = []
    padded = [f" {' '.join(tokenize(text))} " for text in descriptions]
    for number, words in enumerate(padded):
        inside = any(words in other and (words != other or n < number) for n, other in enumerate(padded) if n != number)
        if not inside and words.strip():
            kept.append(descriptions[number].strip().rstrip(".,;"))
    return kept


def _listed(texts: Sequence[str]) -> str:
    return " and ".join([", ".join(texts[:-1]), texts[-1]]) if len(texts) > 1 else "".join(texts)


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitConfig:
    """Which neurons are kept from training. What is neither for validation nor for test is for training."""

    validation: float = 0.1
    """Share of the neurons on which training decides when to stop."""
    test: float = 0.1
    """Share of the neurons that training never sees."""
    test_layers: tuple[str, ...] = ()
    """Layers of which every neuron is for test: does the captioner describe what it was not trained on?"""
    seed: int = 0

    def __post_init__(self) -> None:
        if not (0 <= self.validation < 1 and 0 <= self.test < 1 and self.validation + self.test < 1):
            raise ConfigError(
                f"split: expected shares from 0 that leave some neurons to train on; found validation "
                f"{self.validation} and test {self.test}."
            )


def part_of(neuron: Neuron, config: SplitConfig) -> Part:
    """The part that a neuron belongs to. It depends on its layer, unit and the seed alone.

    So it is the same in every order, on every machine, and does not change when other neurons are added.
    """
    if neuron.layer in config.test_layers:
        return "test"
    name = f"{config.seed}/{neuron.unit}/{neuron.layer}".encode()
    share = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest()) / 2**64
    if share < config.test:
        return "test"
    return "validation" if share < config.test + config.validation else "train"


def split(neurons: Sequence[Neuron], config: SplitConfig) -> dict[Part, list[int]]:
    """The positions of the neurons of each part, ascending."""
    parts: dict[Part, list[int]] = {"train": [], "validation": [], "test": []}
    for position, neuron in enumerate(neurons):
        parts[part_of(neuron, config)].append(position)
    return parts


def training_split(neurons: Sequence[Neuron], config: SplitConfig) -> dict[Part, list[int]]:
    """As `split`, for training.

    Raises:
        DescriptionsError: a part that training needs is empty.
    """
    parts = split(neurons, config)
    for part in ("train", "validation"):
        if not parts[part]:
            raise DescriptionsError(
                f"no neuron of {len(neurons)} falls in the {part} part; give more annotated neurons or a larger share."
            )
    return parts
