"""Words that need no annotation: colours, brightness, edges and texture, read off a photograph's pixels.

Axes: C colours, L looks, G × G cells.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float, Int64, UInt8
from PIL import Image

from mami_core.learning.dissected.shapes import COLOURED, GRID, SHAPES, blurred, halved, shape_cells

COLOURS = ("black", "white", "grey", "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown")
LOOKS = (
    "horizontal edges",
    "vertical edges",
    "diagonal edges rising to the right",
    "diagonal edges falling to the right",
    "edges brighter above",
    "edges brighter below",
    "edges brighter on the left",
    "edges brighter on the right",
    "horizontal lines",
    "vertical lines",
    "diagonal lines rising to the right",
    "diagonal lines falling to the right",
    "fine textures",
    "coarse textures",
    "faint textures",
    "smooth areas",
    "soft shading",
    "bright areas",
    "dark areas",
    "white backgrounds",
    "stripes",
    "outlines on white backgrounds",
    "outlines on black backgrounds",
    "vivid colours",
    "pale colours",
    "many colours",
    *SHAPES,
    *(f"{colour} {shape}" for colour in COLOURS for shape in COLOURED),
)

_STRIPED = 0.55
"""Share of the cells around that hold lines of one orientation where there are stripes."""

_UNCOLOURED = ("black", "white", "grey")
_HUES = (("red", 16), ("orange", 42), ("yellow", 58), ("green", 165), ("blue", 258), ("purple", 295), ("pink", 340))
"""Where on the circle of 360 degrees each colour ends; after the last one it is red again."""


def colour_cells(pixels: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "colours g g"]:
    """The share of each cell that has each of `COLOURS`."""
    named = _named(*_hsv(pixels))
    return np.stack([_cells((named == number).astype(np.float32)) for number in range(len(COLOURS))])


def _hsv(pixels: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "3 h w"]:
    """Hue in degrees, saturation and value from 0 to 1."""
    channels = np.moveaxis(np.asarray(Image.fromarray(pixels).convert("HSV"), np.float32), 2, 0)
    return channels * np.array([360 / 256, 1 / 255, 1 / 255], np.float32)[:, None, None]


def _named(
    hue: Float[np.ndarray, "h w"], saturation: Float[np.ndarray, "h w"], value: Float[np.ndarray, "h w"]
) -> Int64[np.ndarray, "h w"]:
    """The number in `COLOURS` of each pixel's colour."""
    named = np.full(hue.shape, COLOURS.index("red"))
    start = 0
    for name, end in _HUES:
        named[(hue >= start) & (hue < end)] = COLOURS.index(name)
        start = end
    warm = (hue < 48) | (hue > 345)
    named[warm & (value < 0.72) & (saturation > 0.2) & ~((hue < 12) & (saturation > 0.65))] = COLOURS.index("brown")
    named[((hue > 340) | (hue < 12)) & (saturation < 0.5) & (value > 0.75)] = COLOURS.index("pink")
    plain = saturation < 0.16 + 0.1 * (1 - value)
    named[plain & (value > 0.82)] = COLOURS.index("white")
    named[plain & (value <= 0.82)] = COLOURS.index("grey")
    named[value < 0.22] = COLOURS.index("black")
    return named


def look_cells(pixels: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "looks g g"]:
    """Where each of `LOOKS` is true, in a square whose side is a multiple of four cells'."""
    hue, saturation, value = _hsv(pixels)
    named, side = _named(hue, saturation, value), 4 * GRID
    grey = np.asarray(Image.fromarray(pixels).convert("L").resize((side, side)), np.float32) / 255
    colours = {
        name: _pooled((named == number).astype(np.float32), side)
        for number, name in enumerate(COLOURS)
        if (named == number).any()
    }
    found = _surfaces(grey) | _tints(colours, _cells(saturation), _cells(value))
    found |= shape_cells(grey, colours)
    none = np.zeros((GRID, GRID), bool)
    return np.stack([found.get(name, none) for name in LOOKS]).astype(np.float32)


def _surfaces(grey: Float[np.ndarray, "h w"]) -> dict[str, Bool[np.ndarray, "g g"]]:
    """Edges, lines, textures and plain areas.

    Edges and lines are cells whose gradients (structure tensor; Bigun and Granlund, 1987) agree on one orientation. At
    an edge they also agree on one direction; at the two sides of a line they are opposite.
    """
    down, across = np.gradient(grey)
    xx, yy, xy = (blurred(_cells(product)) for product in (across * across, down * down, across * down))
    energy = np.sqrt(xx + yy)
    one_way = np.sqrt((xx - yy) ** 2 + 4 * xy**2) / (xx + yy + 1e-6)
    downward, rightward = blurred(_cells(down)), blurred(_cells(across))
    one_sided = np.hypot(rightward, downward) / (energy + 1e-6)
    angle = 0.5 * np.arctan2(2 * xy, xx - yy)  # of the gradient: 0 is a vertical edge
    level = np.abs(angle) / (np.pi / 2)
    clear = (energy > 0.035) & (one_way > 0.6)
    edge, line = clear & (one_sided > 0.35), clear & (one_sided <= 0.25)
    lying, upright, slanted = level > 0.78, level < 0.22, (level > 0.3) & (level < 0.7)
    disordered = one_way < 0.5
    textured = (energy > 0.045) & disordered
    fine = np.sqrt(blurred(_cells((grey - blurred(grey)) ** 2))) > 0.55 * energy
    light = blurred(_cells(grey))
    smooth = energy < 0.008
    white, black = smooth & (light > 0.93), smooth & (light < 0.07)
    along = [line & (np.abs(np.cos(angle - turn)) > 0.9) for turn in np.arange(0, np.pi, np.pi / 6)]
    striped = np.any([one & (blurred(blurred(one.astype(np.float32))) > _STRIPED) for one in along], axis=0)
    return {
        "horizontal edges": edge & lying,
        "vertical edges": edge & upright,
        "diagonal edges rising to the right": edge & slanted & (angle > 0),
        "diagonal edges falling to the right": edge & slanted & (angle < 0),
        "edges brighter above": edge & lying & (downward < 0),
        "edges brighter below": edge & lying & (downward > 0),
        "edges brighter on the left": edge & upright & (rightward < 0),
        "edges brighter on the right": edge & upright & (rightward > 0),
        "horizontal lines": line & (level > 0.75),
        "vertical lines": line & (level < 0.25),
        "diagonal lines rising to the right": line & slanted & (angle > 0),
        "diagonal lines falling to the right": line & slanted & (angle < 0),
        "fine textures": textured & fine,
        "coarse textures": textured & ~fine,
        "faint textures": (energy > 0.01) & (energy < 0.03) & disordered,
        "smooth areas": smooth,
        "soft shading": (energy > 0.003) & (energy < 0.02) & (one_sided > 0.85),
        "bright areas": light > 0.8,
        "dark areas": light < 0.16,
        "white backgrounds": white,
        "stripes": striped,
        "outlines on white backgrounds": _near(white) & ~white & (energy > 0.02),
        "outlines on black backgrounds": _near(black) & ~black & (energy > 0.02),
    }


def _tints(
    colours: Mapping[str, Float[np.ndarray, "h h"]],
    saturation: Float[np.ndarray, "g g"],
    value: Float[np.ndarray, "g g"],
) -> dict[str, Bool[np.ndarray, "g g"]]:
    """What colours are like."""
    shares = [blurred(_pooled(of, GRID)) > 0.08 for name, of in colours.items() if name not in _UNCOLOURED]
    return {
        "vivid colours": (saturation > 0.65) & (value > 0.45),
        "pale colours": (saturation > 0.1) & (saturation < 0.3) & (value > 0.75),
        "many colours": np.sum(shares, axis=0) >= 4 if shares else np.zeros((GRID, GRID), bool),
    }


def _near(cells: Bool[np.ndarray, "g g"]) -> Bool[np.ndarray, "g g"]:
    """Cells that have more than one of these among their neighbours."""
    return blurred(cells.astype(np.float32)) > 0.15


def _cells(values: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "g g"]:
    """The mean over each cell."""
    return _pooled(values, GRID)


def _pooled(values: Float[np.ndarray, "h w"], side: int) -> Float[np.ndarray, "{side} {side}"]:
    """Means over equal blocks, whose sides are a power of two."""
    while len(values) > side:
        values = halved(values)
    return values
