"""The outlines of things and the patterns on them, as functions of coordinates.

A thing's own coordinates u (right) and v (down) run from about −1 to 1 over its extent. An outline is positive inside
and falls to the outside about as fast as the distance does, so that its edge can be drawn smoothly.
"""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float32

Grid = Float32[np.ndarray, "h w"]
Outline = Callable[[Grid, Grid], Grid]


def _circle(u: Grid, v: Grid) -> Grid:
    return 1 - np.hypot(u, v)


def _ring(u: Grid, v: Grid) -> Grid:
    return 0.22 - np.abs(np.hypot(u, v) - 0.76)


def _box(width: float, height: float) -> Outline:
    return lambda u, v: np.minimum(width - np.abs(u), height - np.abs(v))


def _triangle(u: Grid, v: Grid) -> Grid:
    return np.minimum(0.6 - v, 0.5 * v + 0.45 - 0.87 * np.abs(u))


def _star(u: Grid, v: Grid) -> Grid:
    fifth = np.arctan2(u, -v) * (5 / (2 * np.pi))
    tip = np.abs(fifth - np.round(fifth)) * 2
    return 0.5 * (1 / (1 + 1.6 * tip) - np.hypot(u, v))


def _cross(u: Grid, v: Grid) -> Grid:
    return np.maximum(_box(0.95, 0.28)(u, v), _box(0.28, 0.95)(u, v))


def _diamond(u: Grid, v: Grid) -> Grid:
    return 0.6 * (1 - np.abs(u) / 0.72 - np.abs(v))


def _oval(u: Grid, v: Grid) -> Grid:
    return 0.6 * (1 - np.hypot(u / 0.58, v))


def _heart(u: Grid, v: Grid) -> Grid:
    return 0.4 * (1 - (1.15 * u) ** 2 - (1.25 * (0.05 - v) - 0.75 * np.sqrt(np.abs(u)) + 0.25) ** 2)


def _flower(u: Grid, v: Grid) -> Grid:
    return 0.7 * (0.72 + 0.26 * np.cos(6 * np.arctan2(v, u)) - np.hypot(u, v))


def _leaf(u: Grid, v: Grid) -> Grid:
    return np.minimum(1.3 - np.hypot(u - 0.84, v), 1.3 - np.hypot(u + 0.84, v))


def _wheel(u: Grid, v: Grid) -> Grid:
    spokes = np.maximum.reduce(
        [0.09 - np.abs(u * math.cos(a) + v * math.sin(a)) for a in (0, math.pi / 3, 2 * math.pi / 3)]
    )
    inside = np.hypot(u, v)
    return np.maximum(np.maximum(0.13 - np.abs(inside - 0.85), np.minimum(spokes, 0.9 - inside)), 0.2 - inside)


_LETTERS = ["11101010111", "01001110110", "01001010111", "00000000000", "10101110100", "11101010100", "10101110111"]
_LETTERS_GRID = np.array([[float(cell) for cell in line] for line in _LETTERS], dtype=np.float32) - 0.5


def _letters(u: Grid, v: Grid) -> Grid:
    rows, columns = _LETTERS_GRID.shape
    row, column = np.floor((v + 0.75) / 1.5 * rows).astype(int), np.floor((u + 1) / 2 * columns).astype(int)
    inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
    return np.where(inside, _LETTERS_GRID[row.clip(0, rows - 1), column.clip(0, columns - 1)], np.float32(-0.5))


def _net(u: Grid, v: Grid) -> Grid:
    lines = np.maximum(0.07 - np.abs(u - np.round(u / 0.43) * 0.43), 0.07 - np.abs(v - np.round(v / 0.43) * 0.43))
    return np.minimum(lines, 0.95 - np.maximum(np.abs(u), np.abs(v)))


def _crescent(u: Grid, v: Grid) -> Grid:
    return np.minimum(1 - np.hypot(u, v), np.hypot(u - 0.5, v) - 0.8)


def _eye(u: Grid, v: Grid) -> Grid:
    return _leaf(v, u)


OUTLINES: dict[str, Outline] = {
    "circle": _circle,
    "ring": _ring,
    "square": _box(0.82, 0.82),
    "rectangle": _box(0.5, 0.95),
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "diamond": _diamond,
    "oval": _oval,
    "heart": _heart,
    "pole": _box(0.11, 1.0),
    "flower": _flower,
    "leaf": _leaf,
    "wheel": _wheel,
    "letters": _letters,
    "net": _net,
    "crescent": _crescent,
    "eye": _eye,
}


def striped(u: Grid, v: Grid, repeats: float) -> Grid:
    """0 and 1 in turns along u."""
    return (np.sin(np.pi * repeats * u) > 0).astype(np.float32)


def checkered(u: Grid, v: Grid, repeats: float) -> Grid:
    """0 and 1 in turns along u and v."""
    return np.abs(striped(u, v, repeats) - striped(v, u, repeats))


def dotted(u: Grid, v: Grid, repeats: float) -> Grid:
    """1 on round spots in rows and columns, 0 between them."""
    across, down = u * repeats / 2, v * repeats / 2
    return (np.hypot(across - np.round(across), down - np.round(down)) < 0.28).astype(np.float32)
