"""What is read off pixels is where it was drawn."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from mami_core.features.looks import COLOURS, FINE, LOOKS, NUM_LOOKS, SIDE, SIDES, look_maps

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


def seen_in(*pictures: Picture) -> Tensor:
    return look_maps(torch.from_numpy(np.stack(pictures).transpose(0, 3, 1, 2).copy()))


def look_cells(picture: Picture) -> np.ndarray:
    return seen_in(picture)[0, len(COLOURS) :].numpy()


def shares(picture: Picture) -> dict[str, float]:
    return {name: float(cells.mean()) for name, cells in zip(LOOKS, look_cells(picture), strict=True)}


def turned(picture: Picture) -> Picture:
    return picture.transpose(1, 0, 2).copy()


def with_block(ground: int = 255) -> Picture:
    """A speckled block in the middle of a plain picture."""
    picture = plain((ground,) * 3)
    picture[80:176, 80:176] = np.random.default_rng(2).integers(30, 150, (96, 96, 3), np.uint8)
    return picture


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
    assert upright[vertical].sum() >= FINE
    assert not upright[horizontal].any()
    np.testing.assert_array_equal(lying[horizontal], upright[vertical].T)


def test_a_spot_and_stripes_are_where_they_are_and_nowhere_else() -> None:
    picture = plain()
    picture[60:68, 60:68] = 255  # one small square, and lines four cells apart from the right edge
    picture[:, SIDE - 64 :: 8] = 10
    picture[:, SIDE - 63 :: 8] = 10
    looks = dict(zip(LOOKS, look_cells(picture), strict=True))
    assert looks["white spots"][14:18, 14:18].any()
    assert not looks["white spots"][24:, :40].any()
    assert not looks["dark spots"][:, :40].any()
    assert looks["stripes"][:, -10:-4].mean() > 0.5
    assert not looks["stripes"][:, :40].any()


@pytest.mark.parametrize("width", [2, 4])
def test_a_bright_line_is_not_the_dark_one_beside_it(width: int) -> None:
    picture = plain()
    picture[:, 64 : 64 + width], picture[:, 72 : 72 + width] = 250, 5
    looks = dict(zip(LOOKS, look_cells(picture), strict=True))
    white, black = looks["white lines"].any(0), looks["black lines"].any(0)
    assert white[16]
    assert black[18]
    assert not (white & black).any()


LINES = [name for name in LOOKS if name.endswith(" lines") and ("bright" in name or "dark" in name)]
TEXTURES = [name for name in LOOKS if name.endswith(" textures")]


def strokes(length: int) -> Picture:
    """Upright ones, 64 pixels apart."""
    picture = with_bars(4, 5)
    picture[np.arange(SIDE) % 64 >= length] = 128
    return picture


@pytest.mark.parametrize("picture", [HALVES, turned(HALVES), strokes(9), with_discs(16, (5, 5, 5))])
def test_the_side_of_an_edge_and_what_soon_ends_are_no_lines(picture: Picture) -> None:
    found = shares(picture)
    assert max(found[name] for name in LINES) < 0.002
    assert shares(strokes(40))["thin dark lines"] > 0.01


def test_a_texture_is_wide_and_goes_no_single_way() -> None:
    blobs = Image.fromarray(np.random.default_rng(4).integers(0, 256, (32, 32), np.uint8))
    rough = np.asarray(blobs.resize((SIDE, SIDE), Image.Resampling.BICUBIC).convert("RGB"))
    fine = np.random.default_rng(4).integers(0, 256, (SIDE, SIDE, 1), np.uint8).repeat(3, 2)
    for name, picture in (("coarse textures", rough), ("fine textures", fine)):
        assert shares(picture)[name] > 0.5
        part = plain()
        part[100:140, 100:140] = picture[:40, :40]
        for small in (part, with_bars(8, 5, apart=16), HALVES):
            assert sum(shares(small)[name] for name in TEXTURES) < 0.02


@pytest.mark.parametrize("ground", [255, 3, 120])
def test_a_thing_has_its_sides_where_the_background_begins(ground: int) -> None:
    looks = dict(zip(LOOKS, look_cells(with_block(ground)), strict=True))
    down, across = np.mgrid[:FINE, :FINE]
    where = {"tops of things": down, "undersides of things": -down}
    where |= {"left sides of things": across, "right sides of things": -across}
    assert tuple(where) == SIDES
    for name, line in where.items():
        found = looks[name] > 0
        middle = line[FINE // 2, FINE // 2]
        assert found.sum() >= 48
        assert (line[found] < middle - 6).all()
        assert (looks["outlines of things"][found] == 1).all()
    assert not looks["outlines of things"][FINE // 2, FINE // 2]
    assert not any(look_cells(plain())[LOOKS.index(name)].any() for name in SIDES)


@pytest.mark.parametrize("colour", COLOURS)
def test_a_colour_has_every_cell_that_is_its_own(colour: str) -> None:
    rgb = {"black": 10, "white": 245, "grey": 128}.get(colour)
    own = {
        "red": (220, 30, 30),
        "orange": (245, 150, 20),
        "yellow": (240, 225, 40),
        "green": (40, 170, 50),
        "blue": (40, 70, 220),
        "purple": (140, 40, 200),
        "pink": (245, 130, 190),
        "brown": (120, 72, 30),
    }
    picture = plain((rgb,) * 3 if rgb is not None else own[colour])
    picture[:, : SIDE // 2] = (255, 255, 255) if colour != "white" else (0, 0, 0)
    cells = seen_in(picture)[0, COLOURS.index(colour)]
    assert (cells[:, FINE // 2 :] == 1).all()
    assert (cells[:, : FINE // 2] == 0).all()


def test_a_cell_has_its_commonest_colour_and_of_several_the_first() -> None:
    picture = plain((250, 250, 250))
    picture[::2] = 5  # half black, half white
    picture[SIDE // 2 :: 4] = (230, 30, 30)  # a quarter red, a quarter black
    cells = seen_in(picture)[0, : len(COLOURS)]
    assert (cells.sum(0) == 1).all()
    assert cells[COLOURS.index("black"), : FINE // 2].all()
    assert cells[COLOURS.index("white"), FINE // 2 :].all()


@pytest.mark.parametrize("degrees", [0, 45, 90, 135, 30])
@pytest.mark.parametrize(("width", "name"), [(3, "thin bright lines"), (6, "bright lines"), (12, "thick bright lines")])
def test_a_line_is_one_whichever_way_it_goes(degrees: float, width: int, name: str) -> None:
    down, across = np.mgrid[:SIDE, :SIDE] - SIDE / 2 + 0.5
    angle = np.radians(degrees)
    picture = plain()
    picture[abs(down * np.cos(angle) + across * np.sin(angle)) < width / 2] = 250
    looks = dict(zip(LOOKS, look_cells(picture), strict=True))
    length = min(1 / max(abs(np.cos(angle)), abs(np.sin(angle))), 1.42) * FINE / 2
    assert looks[name].sum() > 0.4 * length * max(1, width / 8)
    assert looks["white lines"].sum() > 0.4 * length


def test_a_pictures_maps_do_not_depend_on_its_neighbours() -> None:
    pictures = [CONFETTI, NOISE, with_discs(6, (230, 30, 30)), HALVES, with_bars(3, 250), with_block(), RAMP] * 3
    together = seen_in(*pictures)
    assert together.shape == (21, NUM_LOOKS, FINE, FINE)
    for number in (0, 4, 12, 20):
        assert seen_in(pictures[number]).equal(together[number : number + 1])
    assert seen_in(*pictures[5:18]).equal(together[5:18])
    noise = torch.randint(256, (9, 3, 64, 64), dtype=torch.uint8).repeat_interleave(4, 2).repeat_interleave(4, 3)
    in_other_order = noise.contiguous(memory_format=torch.channels_last)
    assert look_maps(noise)[5:6].equal(look_maps(in_other_order[5:6]))
