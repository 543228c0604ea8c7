"""The planted network does what its names say."""

import pytest
import torch

from mami_core.metrics.planted import COLOURS, NAMES, RIGHT_WORDS, planted
from mami_core.subjects import Trace


def peaks(pixels: torch.Tensor) -> torch.Tensor:
    subject = planted()
    with torch.inference_mode(), Trace(subject.network, ["units"]) as maps:
        subject.network(subject.normalise(pixels))
        return maps["units"].amax((2, 3))


def test_each_colour_drives_its_own_unit_highest() -> None:
    shown = torch.tensor(list(COLOURS.values()), dtype=torch.uint8)[:, :, None, None].expand(-1, -1, 224, 224)
    assert peaks(shown)[:, : len(COLOURS)].argmax(1).tolist() == list(range(len(COLOURS)))


@pytest.mark.parametrize(("name", "axis"), [("horizontal lines", 0), ("vertical lines", 1)])
def test_lines_drive_the_unit_of_their_direction(name: str, axis: int) -> None:
    line = ((torch.arange(224) // 10) % 2 * 255).to(torch.uint8)
    shown = (line[:, None] if axis == 0 else line[None]).expand(224, 224)[None, None].expand(1, 3, -1, -1)
    textures = [NAMES.index(f"{kind} lines") for kind in ("horizontal", "vertical", "diagonal")]
    assert NAMES[textures[int(peaks(shown)[0, textures].argmax())]] == name


@pytest.mark.parametrize(("place", "rows", "columns"), [("top", (0, 40), (90, 130)), ("left side", (90, 130), (0, 40))])
def test_a_square_drives_the_unit_of_its_place(place: str, rows: tuple[int, int], columns: tuple[int, int]) -> None:
    shown = torch.full((1, 3, 224, 224), 128, dtype=torch.uint8)
    shown[:, :, slice(*rows), slice(*columns)] = 255
    places = [number for number, name in enumerate(NAMES) if name.endswith("picture")]
    assert place in NAMES[places[int(peaks(shown)[0, places].argmax())]]


def test_every_unit_has_words_that_are_right_of_it() -> None:
    assert len(RIGHT_WORDS) == len(NAMES) == peaks(torch.zeros(1, 3, 224, 224, dtype=torch.uint8)).shape[1]
