"""What is learned of each neuron, and which neurons are kept from training."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mami_core.captions.vocabulary import tokenize
from mami_core.errors import ConfigError
from mami_core.learning.descriptions import Neuron
from mami_core.learning.targets import SplitConfig, TargetsConfig, compound, part_of, split, targets

WORDS = st.lists(st.sampled_from(["red", "eyes", "dogs", "on", "grass"]), min_size=1, max_size=4).map(" ".join)
NEURONS = st.lists(st.builds(Neuron, st.sampled_from("abc"), st.integers(0, 9999)), unique=True, max_size=50)


@pytest.mark.parametrize(
    ("descriptions", "expected"),
    [
        (("red eyes",), "red eyes"),
        (("red eyes", "dogs"), "red eyes and dogs"),
        (("red eyes", "dogs", "grass"), "red eyes, dogs and grass"),
        (("Red eyes.", "red eyes", "dogs"), "Red eyes and dogs"),
        (("eyes", "red eyes", "dogs on grass", "on grass"), "red eyes and dogs on grass"),
        (("red", "redder"), "red and redder"),
        (("...", "dogs"), "dogs"),
    ],
)
def test_descriptions_are_joined_without_repetition(descriptions: tuple[str, ...], expected: str) -> None:
    assert compound(descriptions, max_words=30) == expected


@given(st.lists(WORDS, min_size=1, max_size=5), st.integers(1, 20))
def test_a_compound_says_all_that_fits(descriptions: list[str], max_words: int) -> None:
    said = compound(descriptions, max_words=max_words)
    assert len(tokenize(said)) <= max(max_words, 4)  # the first description stays, however long
    everything = compound(descriptions, max_words=1000)
    assert all(f" {' '.join(tokenize(text))} " in f" {' '.join(tokenize(everything))} " for text in descriptions)
    if len(tokenize(everything)) <= max_words:
        assert said == everything


def test_descriptions_are_separate_targets_unless_joined() -> None:
    said = ("red eyes", "dogs")
    assert targets(said, TargetsConfig()) == said
    assert targets(said, TargetsConfig(join=True)) == ("red eyes and dogs",)


@given(NEURONS, st.randoms())
def test_a_neurons_part_depends_on_nothing_but_itself(neurons: list[Neuron], random: object) -> None:
    config = SplitConfig()
    parts = split(neurons, config)
    assert sorted(position for positions in parts.values() for position in positions) == list(range(len(neurons)))
    for part, positions in parts.items():
        assert positions == sorted(positions)
        assert all(part_of(neurons[position], config) == part for position in positions)


def test_parts_have_about_their_shares_and_another_seed_draws_others() -> None:
    neurons = [Neuron(layer, unit) for layer in ("layer1", "layer2") for unit in range(5000)]
    one, other = (split(neurons, SplitConfig(validation=0.1, test=0.2, seed=seed)) for seed in (0, 1))
    assert len(one["validation"]) == pytest.approx(1000, rel=0.12)
    assert len(one["test"]) == pytest.approx(2000, rel=0.08)
    assert len(set(one["test"]) & set(other["test"])) == pytest.approx(400, rel=0.25)


def test_the_parts_of_these_neurons_never_change() -> None:
    """A published score stands on the split; whoever changes it must say so."""
    parts = split([Neuron("layer4", unit) for unit in range(40)], SplitConfig())
    assert parts["test"] == [27]
    assert parts["validation"] == [3, 8, 9, 11, 15, 21, 28, 31]


def test_whole_layers_can_be_kept_for_test() -> None:
    config = SplitConfig(test=0.0, validation=0.0, test_layers=("unseen",))
    assert split([Neuron("unseen", 0), Neuron("seen", 0)], config) == {"train": [1], "validation": [], "test": [0]}


@pytest.mark.parametrize("shares", [{"validation": -0.1}, {"test": 1.0}, {"validation": 0.5, "test": 0.5}])
def test_shares_that_leave_nothing_to_train_on_are_refused(shares: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="train"):
        SplitConfig(**shares)


def test_a_compound_of_no_words_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_words"):
        TargetsConfig(max_words=0)
