"""What is read off pixels is where it was drawn, and is put into words as people would."""

import numpy as np
import pytest
import torch

from mami_core.features.looks import COLOURS, GRID, LOOKS, look_maps
from mami_core.learning.dissected import Finding, descriptions

SIDE = 8 * GRID
Picture = np.ndarray


def plain(rgb: tuple[int, int, int] = (128, 128, 128)) -> Picture:
    return np.full((SIDE, SIDE, 3), rgb, np.uint8)


def with_discs(radius: float, rgb: tuple[int, int, int], *, apart: int = SIDE // 2, ground: int = 128) -> Picture:
    """Discs in the middle of squares of a side."""
    down, across = np.mgrid[:SIDE, :SIDE] % apart - apart / 2 + 0.5
    picture = plain((ground,) * 3)
    picture[np.hypot(down, across) < radius] = rgb
    return picture


def with_bars(width: int, brightness: int, *, apart: int = 64) -> Picture:
    """Upright bars."""
    picture = plain()
    picture[:, np.arange(SIDE) % apart < width] = brightness
    return picture


def look_cells(picture: Picture) -> np.ndarray:
    return look_maps(torch.from_numpy(picture.transpose(2, 0, 1)[None].copy()))[0, len(COLOURS) :].numpy()


def shares(picture: Picture) -> dict[str, float]:
    return {name: float(cells.mean()) for name, cells in zip(LOOKS, look_cells(picture), strict=True)}


def turned(picture: Picture) -> Picture:
    return picture.transpose(1, 0, 2).copy()


RAMP = np.repeat(np.linspace(10, 245, SIDE, dtype=np.uint8)[None, :, None], 3, 2).repeat(SIDE, 0)
NOISE = np.random.default_rng(0).integers(120, 136, (64, 64, 1), np.uint8).repeat(4, 0).repeat(4, 1).repeat(3, 2)
HALVES = plain((230, 230, 230))
HALVES[:, : SIDE // 2 + 4] = 20
CONFETTI = (
    np.array([(230, 30, 30), (40, 180, 40), (40, 60, 220), (240, 220, 40), (230, 120, 190)], np.uint8)[
        np.random.default_rng(1).integers(0, 5, (32, 32))
    ]
    .repeat(8, 0)
    .repeat(8, 1)
)


@pytest.mark.parametrize(
    ("picture", "true", "false"),
    [
        (with_discs(3, (250, 250, 250)), "bright specks", "dark specks"),
        (with_discs(3, (5, 5, 5)), "dark specks", "dark spots"),
        (with_discs(6, (250, 250, 250)), "bright spots", "bright specks"),
        (with_discs(6, (5, 5, 5)), "dark spots", "large dark spots"),
        (with_discs(13, (250, 250, 250)), "large bright spots", "bright spots"),
        (with_discs(13, (5, 5, 5)), "large dark spots", "dark specks"),
        (with_discs(6, (230, 30, 30)), "red spots", "grey spots"),
        (with_discs(6, (5, 5, 5)), "black spots", "white spots"),
        (with_discs(16, (250, 250, 250)), "round shapes", "dotted patterns"),
        (with_discs(4, (250, 250, 250), apart=16), "dotted patterns", "stripes"),
        (with_bars(3, 250), "thin bright lines", "thick bright lines"),
        (with_bars(3, 5), "thin dark lines", "thin bright lines"),
        (with_bars(8, 250), "bright lines", "thin dark lines"),
        (with_bars(16, 5), "thick dark lines", "thin dark lines"),
        (with_bars(3, 250), "white lines", "black lines"),
        (with_bars(4, 10, apart=8), "stripes", "round shapes"),
        (with_bars(3, 250), "vertical lines", "horizontal lines"),
        (HALVES, "edges brighter on the right", "edges brighter on the left"),
        (HALVES[:, ::-1], "edges brighter on the left", "edges brighter on the right"),
        (turned(HALVES), "edges brighter below", "edges brighter above"),
        (turned(HALVES)[::-1], "edges brighter above", "vertical edges"),
        (np.minimum(with_bars(3, 5, apart=32), turned(with_bars(3, 5, apart=32))), "crossing lines", "smooth areas"),
        (RAMP, "soft shading", "vertical edges"),
        (NOISE, "faint textures", "coarse textures"),
        (with_discs(60, (200, 60, 60), ground=2), "outlines on black backgrounds", "outlines on white backgrounds"),
        (with_discs(60, (200, 60, 60), ground=255), "outlines on white backgrounds", "outlines on black backgrounds"),
        (plain((235, 40, 40)), "vivid colours", "pale colours"),
        (plain((250, 205, 210)), "pale colours", "vivid colours"),
        (CONFETTI, "many colours", "soft shading"),
    ],
)
def test_a_look_is_seen_where_it_was_drawn_rather_than_its_neighbour(picture: Picture, true: str, false: str) -> None:
    found = shares(picture)
    assert found[true] > max(0.003, 5 * found[false])


def test_edges_turn_with_the_picture() -> None:
    upright, lying = look_cells(HALVES), look_cells(turned(HALVES))
    vertical, horizontal = LOOKS.index("vertical edges"), LOOKS.index("horizontal edges")
    assert upright[vertical].sum() >= GRID
    assert not upright[horizontal].any()
    np.testing.assert_array_equal(lying[horizontal], upright[vertical].T)


def test_a_spot_and_stripes_are_where_they_are_and_nowhere_else() -> None:
    picture = plain()
    picture[60:68, 60:68] = 255  # one small square, and lines four cells apart from the right edge
    picture[:, SIDE - 64 :: 8] = 10
    picture[:, SIDE - 63 :: 8] = 10
    looks = dict(zip(LOOKS, look_cells(picture), strict=True))
    assert looks["white spots"][7:9, 7:9].any()
    assert not looks["white spots"][12:, :20].any()
    assert not looks["dark spots"][:, :20].any()
    assert looks["stripes"][:, -5:-2].mean() > 0.5
    assert not looks["stripes"][:, :20].any()


# --- in words ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "colours", "said"),
    [
        (("vertical edges", "horizontal edges"), ("red",), "horizontal and vertical edges of red things"),
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
