"""What is read off pixels is put into words as people would."""

import numpy as np
import pytest

from mami_core.learning.dissected import Finding, descriptions


@pytest.mark.parametrize(
    ("low", "colours", "said"),
    [
        (("vertical edges", "horizontal edges"), ("red",), "horizontal and vertical edges of red things"),
        (("vertical strips",), ("white", "black"), "white and black vertical strips"),
        (("horizontal strips", "dark spots"), ("red",), "red horizontal strips"),
        (("dark spots", "specks"), (), "dark spots"),
        (("specks", "fine textures"), ("blue",), "blue specks"),
        (("vertical edges",), ("white", "black"), "vertical edges between white and black"),
        (("vertical edges", "edges brighter on the left"), (), "vertical edges brighter on the left"),
        (("vertical edges", "edges brighter above"), (), "vertical edges"),
        (
            ("diagonal edges falling to the right", "edges brighter on the left"),
            (),
            "diagonal edges falling to the right",
        ),
        (("horizontal lines", "thin dark lines", "thick bright lines"), (), "bright and dark horizontal lines"),
        (("diagonal lines rising to the right", "diagonal lines falling to the right"), (), "diagonal lines"),
        (
            ("diagonal edges rising to the right", "vertical edges"),
            (),
            "vertical and diagonal edges rising to the right",
        ),
        (("thin dark lines", "vertical lines", "black lines"), ("white",), "thin black vertical lines on white"),
        (("bright spots",), ("white",), "white spots"),
        (("dark spots",), ("black", "blue"), "black spots on blue"),
        (("dark specks",), ("white",), "dark specks on white"),
        (("bright spots", "white spots"), ("blue",), "white spots on blue"),
        (("bright specks", "dark specks"), ("grey",), "bright and dark specks on grey"),
        (("stripes", "fine textures"), ("red",), "finely textured red stripes"),
        (("round shapes", "dark lines"), ("brown",), "brown round shapes and dark lines"),
        (("outlines on white backgrounds",), ("white", "red"), "outlines of red things on white backgrounds"),
        (("white backgrounds", "smooth areas"), ("white",), "white backgrounds"),
        (("smooth areas",), (), "plain areas"),
        (("tops of things",), ("white",), "tops of things"),
        (("left sides of things", "tops of things"), ("white",), "left sides and tops of things"),
        (("undersides of things", "dark lines"), ("white",), "undersides of things and dark lines"),
        (("outlines of things",), ("blue",), "outlines of things"),
        (("coarse textures", "fine textures"), (), "rough textures"),
    ],
)
def test_looks_and_colours_are_put_together_as_people_would(
    low: tuple[str, ...], colours: tuple[str, ...], said: str
) -> None:
    told = [descriptions(Finding(low=low, colours=colours), np.random.default_rng(seed))[-1] for seed in range(8)]
    assert said in told


@pytest.mark.parametrize("colour", ["black", "white", "grey", "red"])
@pytest.mark.parametrize("low", [("bright spots",), ("dark spots",), ("thin dark lines",), ("bright specks",)])
def test_no_spot_contradicts_its_colour(low: tuple[str, ...], colour: str) -> None:
    for seed in range(8):
        for text in descriptions(Finding(low=low, colours=(colour,)), np.random.default_rng(seed)):
            assert not {"dark", "white"} <= set(text.split(" on ")[0].split())
            assert not {"bright", "black"} <= set(text.split(" on ")[0].split())


def test_people_say_more_or_less_of_the_same() -> None:
    finding = Finding(nouns=("dogs", "cats"), colours=("brown",), context=("grass",), place="top")
    said = descriptions(finding, np.random.default_rng(3), count=4)
    assert all("dogs" in text for text in said)
    assert len(said) == len(set(said)) > 1
    assert [len(text) for text in said] == sorted(len(text) for text in said)
    assert said[-1].startswith("brown dogs and cats on grass")


def test_what_only_half_of_the_exemplars_show_is_hedged() -> None:
    finding = Finding(
        nouns=("dogs",),
        wider="animals",
        colours=("brown",),
        context=("grass",),
        low=("dark spots",),
        often=frozenset(("brown", "grass")),
    )
    said = descriptions(finding, np.random.default_rng(0))
    assert said[-1] == "often brown dogs and other animals with dark spots often on grass"
    alone = descriptions(Finding(colours=("brown",), often=frozenset(("brown",))), np.random.default_rng(0))
    assert all(text.startswith("often brown") for text in alone)


def test_nothing_found_is_nothing_to_say() -> None:
    assert not Finding(context=("grass",), wider="dogs")
    assert Finding(low=("smooth areas",))
