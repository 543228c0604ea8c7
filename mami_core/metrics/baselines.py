"""Neurons with captions and descriptions → who is compared with whom: the captions, and what they must beat.

A BLEU by itself says nothing. On people's descriptions of ResNet-152, a person scores 0.6 to 1.2 against the other
two, and "rounded edges in pictures", said of every neuron, scores 4.5.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from mami_core.errors import DescriptionsError
from mami_core.metrics.bleu import MAX_ORDER, BleuCounts, words


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribedNeuron:
    """A neuron with what we say of it and what people said of it."""

    layer: str
    unit: int
    caption: str
    descriptions: tuple[str, ...]
    """One a person."""

    def __post_init__(self) -> None:
        if not self.descriptions:
            raise DescriptionsError(f"neuron {self.layer}/{self.unit}: expected at least one description, got none.")


@dataclass(frozen=True, slots=True)
class Comparison:
    """One text held against the descriptions of one neuron."""

    neuron: int
    """Its position in the list of neurons."""
    caption: str
    descriptions: tuple[str, ...]


def own(neurons: Sequence[DescribedNeuron]) -> list[Comparison]:
    """Every caption against all descriptions of its neuron."""
    return [Comparison(i, neuron.caption, neuron.descriptions) for i, neuron in enumerate(neurons)]


def constant(neurons: Sequence[DescribedNeuron], caption: str) -> list[Comparison]:
    """The same caption for every neuron."""
    return [Comparison(i, caption, neuron.descriptions) for i, neuron in enumerate(neurons)]


def shuffled(neurons: Sequence[DescribedNeuron], generator: torch.Generator) -> list[Comparison]:
    """Every caption against another neuron's descriptions: no neuron keeps its own. Nothing for a single neuron.

    A random cycle through all neurons hands the captions on: a permutation without fixed points for any number.
    """
    if len(neurons) < 2:
        return []
    cycle = torch.randperm(len(neurons), generator=generator).tolist()
    giver = dict(zip(cycle, cycle[1:] + cycle[:1], strict=True))
    return [Comparison(i, neurons[giver[i]].caption, neuron.descriptions) for i, neuron in enumerate(neurons)]


def people(neurons: Sequence[DescribedNeuron]) -> list[Comparison]:
    """Every person's description against the other people's of the same neuron, where there are at least two."""
    return [
        Comparison(i, neuron.descriptions[person], _without(neuron, person))
        for i, neuron in enumerate(neurons)
        if len(neuron.descriptions) > 1
        for person in range(len(neuron.descriptions))
    ]


def own_like_people(neurons: Sequence[DescribedNeuron]) -> list[Comparison]:
    """The captions against the very descriptions that each person meets in `people`, always one fewer than there are.

    More descriptions make a better BLEU and BERTScore; these captions and `people` compare like with like.
    """
    return [
        Comparison(i, neuron.caption, _without(neuron, person))
        for i, neuron in enumerate(neurons)
        if len(neuron.descriptions) > 1
        for person in range(len(neuron.descriptions))
    ]


def _without(neuron: DescribedNeuron, person: int) -> tuple[str, ...]:
    return neuron.descriptions[:person] + neuron.descriptions[person + 1 :]


def ranked_constants(training: Sequence[Sequence[str]]) -> list[str]:
    """Every distinct description of the training neurons, in the order of the BLEU that it has said of all of them.

    The first is the strongest constant that the training set offers. Exact, and linear in the number of words: what a
    constant matches is the number of neurons in whose descriptions its n-grams occur. Ties go by the alphabet.
    """
    if not training:
        raise DescriptionsError("expected descriptions to choose a constant caption from, got none.")
    index = _Index.of([[tuple(words(text)) for text in descriptions] for descriptions in training])
    texts: dict[tuple[str, ...], str] = {}
    for text in sorted({text for descriptions in training for text in descriptions}):
        texts.setdefault(tuple(words(text)), text)
    scores = {text: index.counts(tokens).score() for tokens, text in texts.items()}
    return sorted(scores, key=lambda text: (-scores[text], text))


def constant_candidates(training: Sequence[Sequence[str]], *, num_each: int = 32) -> list[str]:
    """The constants of the best BLEU, best first, and then the most common descriptions: where to look for others."""
    common = Counter(text for descriptions in training for text in sorted(descriptions)).most_common(num_each)
    return list(dict.fromkeys(ranked_constants(training)[:num_each] + [text for text, _ in common]))


@dataclass(frozen=True, slots=True)
class _Index:
    """In how many neurons' descriptions an n-gram occurs, so that one caption's counts need no pass over them."""

    num_neurons: int
    occurrences: Counter
    """By (n-gram, m): neurons with a description that has the n-gram at least m times."""
    closest: dict[int, int]
    """By length of a description: the summed lengths of every neuron's description that is closest to it."""

    @staticmethod
    def of(neurons: Sequence[Sequence[tuple[str, ...]]]) -> "_Index":
        occurrences: Counter = Counter()
        for descriptions in neurons:
            occurrences.update({key for tokens in descriptions for key in _repeats(tokens)})
        kinds = Counter(tuple(sorted({len(tokens) for tokens in descriptions})) for descriptions in neurons)
        return _Index(len(neurons), occurrences, {length: _closest(length, kinds) for length in set().union(*kinds)})

    def counts(self, description: tuple[str, ...]) -> BleuCounts:
        """What merging `BleuCounts.of` this description over all neurons gives."""
        matches = [0] * MAX_ORDER
        for key in _repeats(description):
            matches[len(key[0]) - 1] += self.occurrences[key]
        length = len(description)
        totals = (self.num_neurons * max(1, length - order) for order in range(MAX_ORDER))
        return BleuCounts(tuple(matches), tuple(totals), self.num_neurons * length, self.closest[length])


def _repeats(tokens: tuple[str, ...]) -> list[tuple[tuple[str, ...], int]]:
    """Every n-gram with 1 for its first occurrence, 2 for its second, and so on."""
    counts = Counter(gram for order in range(1, MAX_ORDER + 1) for gram in _ngrams(tokens, order))
    return [(gram, repeat) for gram, count in counts.items() for repeat in range(1, count + 1)]


def _ngrams(tokens: tuple[str, ...], order: int) -> Iterator[tuple[str, ...]]:
    """Every run of so many words."""
    return zip(*(tokens[start:] for start in range(order)), strict=False)


def _closest(length: int, kinds: Counter) -> int:
    """Summed over neurons, of which `kinds` counts those with the same lengths: the length closest to `length`."""
    return sum(number * min(lengths, key=lambda one: (abs(one - length), one)) for lengths, number in kinds.items())
