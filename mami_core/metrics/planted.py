"""A network whose units look for what we know: a colour, a texture, a shape, a place. For measuring captions.

No weight is learned; every unit is built, so that what it responds to can be read off the code. Label it as any other
subject: "python:mami_core.metrics.planted:planted".
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mami_core.subjects import Subject, subject_of

COLOURS = {
    "red": (200, 40, 40),
    "orange": (235, 130, 40),
    "yellow": (235, 215, 60),
    "green": (60, 140, 60),
    "blue": (50, 90, 190),
    "purple": (120, 60, 150),
    "pink": (235, 150, 180),
    "brown": (115, 75, 45),
    "black": (15, 15, 15),
    "white": (245, 245, 245),
    "grey": (128, 128, 128),
}
"""On the scale of pixels from 0 to 255."""
TEXTURES = {"horizontal lines": 90.0, "vertical lines": 0.0, "diagonal lines": 45.0}
"""The direction across the lines, in degrees from the horizontal."""
PLACES = {
    "the top of the picture": (0.5, 0.1),
    "the bottom of the picture": (0.5, 0.9),
    "the left side of the picture": (0.1, 0.5),
    "the right side of the picture": (0.9, 0.5),
    "the middle of the picture": (0.5, 0.5),
}
"""Where, as shares of width and height; such a unit fires on edges there."""
SHAPES = {"round things": 7, "small dots": 3}
"""The radius of the ring that is looked for, in cells of a 56 × 56 map."""

NAMES = (*COLOURS, *TEXTURES, *SHAPES, *PLACES)
"""What each unit of the layer "units" looks for, in their order."""
RIGHT_WORDS: Sequence[Sequence[str]] = (
    *([colour, "gray"] if colour == "grey" else [colour] for colour in COLOURS),
    ["horizontal", "lines", "stripes", "striped", "banded", "blinds", "shutters"],
    ["vertical", "lines", "stripes", "striped", "banded", "fence", "bars", "poles"],
    ["diagonal", "slanted", "lines", "stripes", "striped"],
    ["round", "circle", "circular", "ball", "wheel", "disc", "ring"],
    ["dot", "dotted", "spot", "round", "circle", "polka"],
    ["top", "upper", "above", "sky", "ceiling"],
    ["bottom", "lower", "below", "ground", "floor"],
    ["left", "side", "edge", "border"],
    ["right", "side", "edge", "border"],
    ["middle", "center", "centre", "central"],
)
"""For each of `NAMES`, every word that is right."""

_SIDE = 56
_CUT = 60.0
"""A colour further away than this, in steps of 0 to 255, does not count."""


class Planted(nn.Module):
    """One layer, "units", of one unit for each of `NAMES`."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("colours", torch.tensor(list(COLOURS.values()), dtype=torch.float32))
        self.register_buffer("gratings", torch.stack([_grating(degrees) for degrees in TEXTURES.values()])[:, None])
        self.register_buffer("rings", torch.stack([_ring(radius) for radius in SHAPES.values()])[:, None])
        self.register_buffer("places", torch.stack([_place(*centre) for centre in PLACES.values()]))
        self.units = nn.ReLU()

    def forward(self, pixels: Tensor) -> Tensor:
        """The units' maps, 56 × 56, from pixels on the scale of 0 to 255."""
        small = nn.functional.adaptive_avg_pool2d(pixels, _SIDE)
        away = (small[:, None] - self.get_buffer("colours")[None, :, :, None, None]).square().sum(2).sqrt()
        grey = small.mean(1, keepdim=True) / 255
        waves = nn.functional.conv2d(grey, self.get_buffer("gratings"), padding="same").abs()
        # Along the lines the pattern repeats: the weakest of a neighbourhood tells lines from single edges.
        waves = nn.functional.avg_pool2d(waves, 9, stride=1, padding=4)
        waves = waves - waves.mean(1, keepdim=True)
        edges = (grey - nn.functional.avg_pool2d(grey, 5, stride=1, padding=2)).abs()
        rings = nn.functional.conv2d(edges, self.get_buffer("rings"), padding="same")
        placed = edges * self.get_buffer("places")
        return self.units(torch.cat([_CUT - away, waves, rings, placed], dim=1)).mean((2, 3))


def planted() -> Subject:
    """The network as a subject."""
    return subject_of(Planted(), name="planted", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), default_layers=("units",))


def _grating(degrees: float, *, size: int = 9, wavelength: float = 5.0) -> Tensor:
    """A Gabor filter without a mean."""
    along, across = _grid(size)
    phase = across * math.sin(math.radians(degrees)) + along * math.cos(math.radians(degrees))
    wave = torch.cos(2 * math.pi * phase / wavelength) * torch.exp(-(along**2 + across**2) / (2 * (size / 4) ** 2))
    return wave - wave.mean()


def _ring(radius: int) -> Tensor:
    """Positive on a ring, negative inside and around it."""
    along, across = _grid(2 * max(SHAPES.values()) + 5)
    on = ((along**2 + across**2).sqrt() - radius).abs() < 1
    return on / on.sum() - (~on) / (~on).sum()


def _place(x: float, y: float) -> Tensor:
    along, across = _grid(_SIDE)
    right, down = along / _SIDE + 0.5, across / _SIDE + 0.5
    return torch.exp(-((right - x) ** 2 + (down - y) ** 2) / (2 * 0.12**2))


def _grid(size: int) -> tuple[Tensor, Tensor]:
    """Columns and rows, from the middle."""
    line = torch.arange(size, dtype=torch.float32) - (size - 1) / 2
    return line[None, :].expand(size, size), line[:, None].expand(size, size)
