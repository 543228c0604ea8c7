"""Words that need no annotation: colours, brightness, edges and texture, read off a photograph's pixels.

Axes: C colours, L looks, G × G cells.
"""

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

GRID = 32
"""Cells along each side of a photograph's maps."""

COLOURS = ("black", "white", "grey", "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown")
LOOKS = (
    "horizontal edges",
    "vertical edges",
    "diagonal edges rising to the right",
    "diagonal edges falling to the right",
    "horizontal lines",
    "vertical lines",
    "diagonal lines rising to the right",
    "diagonal lines falling to the right",
    "fine textures",
    "coarse textures",
    "smooth areas",
    "bright areas",
    "dark areas",
    "white backgrounds",
    "stripes",
    "bright spots",
    "dark spots",
    "outlines on white backgrounds",
)

_SPOT = 0.012
"""Curvature of a spot, in brightness a pixel and pixel."""
_STRIPED = 0.55
"""Share of the cells around that hold lines of one orientation where there are stripes."""

_HUES = (("red", 16), ("orange", 42), ("yellow", 58), ("green", 165), ("blue", 258), ("purple", 295), ("pink", 340))
"""Where on the circle of 360 degrees each colour ends; after the last one it is red again."""


def colour_cells(pixels: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "colours g g"]:
    """The share of each cell that has each of `COLOURS`."""
    hue, saturation, value = np.moveaxis(np.asarray(Image.fromarray(pixels).convert("HSV"), np.float32), 2, 0)
    hue, saturation, value = hue * (360 / 256), saturation / 255, value / 255
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
    return np.stack([_cells((named == number).astype(np.float32)) for number in range(len(COLOURS))])


def look_cells(pixels: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "looks g g"]:
    """Where each of `LOOKS` is true.

    Edges and lines are cells whose gradients (structure tensor; Bigun and Granlund, 1987) agree on one orientation. At
    an edge they also agree on one direction; at the two sides of a line they are opposite.
    """
    grey = np.asarray(Image.fromarray(pixels).convert("L").resize((4 * GRID, 4 * GRID)), np.float32) / 255
    down, across = np.gradient(grey)
    xx, yy, xy = (_blurred(_cells(product)) for product in (across * across, down * down, across * down))
    energy = np.sqrt(xx + yy)
    one_way = np.sqrt((xx - yy) ** 2 + 4 * xy**2) / (xx + yy + 1e-6)
    one_sided = np.hypot(_blurred(_cells(across)), _blurred(_cells(down))) / (energy + 1e-6)
    angle = 0.5 * np.arctan2(2 * xy, xx - yy)  # of the gradient: 0 is a vertical edge
    level = np.abs(angle) / (np.pi / 2)
    clear = (energy > 0.035) & (one_way > 0.6)
    edge, line = clear & (one_sided > 0.35), clear & (one_sided <= 0.25)
    slanted = (level > 0.3) & (level < 0.7)
    textured = (energy > 0.045) & (one_way < 0.5)
    fine = np.sqrt(_blurred(_cells((grey - _blurred(grey)) ** 2))) > 0.55 * energy
    light = _blurred(_cells(grey))
    smooth = energy < 0.008
    white = smooth & (light > 0.93)
    along = [line & (np.abs(np.cos(angle - turn)) > 0.9) for turn in np.arange(0, np.pi, np.pi / 6)]
    striped = np.any([one & (_blurred(_blurred(one.astype(np.float32))) > _STRIPED) for one in along], axis=0)
    found = (
        edge & (level > 0.78),
        edge & (level < 0.22),
        edge & slanted & (angle > 0),
        edge & slanted & (angle < 0),
        line & (level > 0.75),
        line & (level < 0.25),
        line & slanted & (angle > 0),
        line & slanted & (angle < 0),
        textured & fine,
        textured & ~fine,
        smooth,
        light > 0.8,
        light < 0.16,
        white,
        striped,
        _spotted(grey),
        _spotted(-grey),
        _spread(white.astype(np.float32)) & ~white & (energy > 0.02),
    )
    return np.stack(found).astype(np.float32)


def _spotted(grey: Float[np.ndarray, "h w"]) -> Bool[np.ndarray, "g g"]:
    """Cells with a small spot that is brighter than all around it: both curvatures are downward, and strong."""
    soft = _blurred(_blurred(grey))
    down, across = np.gradient(soft)
    (yy, xy), (_, xx) = np.gradient(down), np.gradient(across)
    least = -0.5 * (xx + yy) - np.sqrt(0.25 * (xx - yy) ** 2 + xy**2)  # the weaker of the two curvatures
    side = len(grey) // GRID
    return least.reshape(GRID, side, GRID, side).max((1, 3)) > _SPOT


def _spread(cells: Float[np.ndarray, "g g"]) -> Bool[np.ndarray, "g g"]:
    """Cells that have more than one of these among their neighbours."""
    return _blurred(cells) > 0.15


def _cells(values: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "g g"]:
    """The mean over each cell; sides are whole multiples of the grid's."""
    height, width = values.shape
    return values.reshape(GRID, height // GRID, GRID, width // GRID).mean((1, 3))


def _blurred(cells: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """The mean of each cell and its eight neighbours."""
    padded = np.pad(cells, 1, mode="edge")
    height, width = cells.shape
    moved = [padded[i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return np.mean(moved, axis=0)
