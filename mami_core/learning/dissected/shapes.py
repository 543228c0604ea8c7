"""Spots, lines and round things, found pixel by pixel at three sizes.

Axes: H × H pixels of one size of a picture, G × G cells.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

GRID = 32
"""Cells along each side of a photograph's maps."""

SIZES = ("small", "middle", "large")
"""A spot of each is about one, two and four cells across; a line is half as wide."""
_SPOTS = {"small": "specks", "middle": "spots", "large": "large spots"}
_LINES = {"small": "thin lines", "middle": "lines", "large": "thick lines"}
_TONES = ("bright", "dark")
_CURVED, _LEVEL, _ROUND, _LONG = 0.014, 0.7, 0.35, 0.3
"""The least curvature, in brightness a pixel and pixel; how steep a pixel may be against it, which tells the middle of
a line from the side of an edge; how the weaker curvature compares with the stronger one in a spot, at least, and along
a line, at most."""
_STRONGEST = 0.7
"""How strong a curvature must be against the strongest around it at any size: beside every edge there are weaker
ones."""
_STEEP, _RING = 0.02, 0.5
"""The least slope of an outline, in brightness a pixel; the share of each eighth of a circle that must be outline."""
_DENSE, _CROSSED = 0.4, 0.25
"""Share of the cells around that hold spots in a dotted pattern, and lines of each of two directions where lines
cross."""
_RADII = (4, 5, 6, 8, 10, 12)
"""Of round things, in pixels of half a cell."""


def _toned(tone: str, name: str) -> str:
    """Size, tone and noun: "large dark spots", "thin bright lines"."""
    size, _, noun = name.rpartition(" ")
    return f"{size} {tone} {noun}".strip()


SHAPES = (
    *(_toned(tone, name) for names in (_SPOTS, _LINES) for name in names.values() for tone in _TONES),
    "dotted patterns",
    "crossing lines",
    "round shapes",
)
"""What `shape_cells` tells."""
COLOURED = ("spots", "lines")
"""What has a colour of its own: "red spots", of any size."""


class _Found(NamedTuple):
    """What is in one pixel of one size."""

    size: str
    spots: Mapping[str, Bool[np.ndarray, "h h"]]
    lines: Mapping[str, Bool[np.ndarray, "h h"]]
    """By tone."""
    across: Float[np.ndarray, "h h"]
    """The direction across a line."""


def shape_cells(
    grey: Float[np.ndarray, "h h"], colours: Mapping[str, Float[np.ndarray, "h h"]]
) -> dict[str, Bool[np.ndarray, "g g"]]:
    """Where each of `SHAPES` is, and the spots and lines of each colour (`COLOURED`).

    A spot or a line is told at the size at which it is clearest.

    Args:
        grey: The picture's brightness.
        colours: The share of each pixel that has each colour.
    """
    cells: dict[str, Bool[np.ndarray, "g g"]] = {}
    found = list(_found(grey))
    for one in found:
        for names, shapes in ((_SPOTS, one.spots), (_LINES, one.lines)):
            cells |= {_toned(tone, names[one.size]): in_cells(shapes[tone]) for tone in _TONES}
    dots = np.any([cells[_toned(tone, _SPOTS[size])] for tone in _TONES for size in ("small", "middle")], axis=0)
    cells["dotted patterns"] = dots & (blurred(blurred(dots.astype(np.float32))) > _DENSE)
    cells["crossing lines"] = _crossing(found)
    cells["round shapes"] = _round_things(halved(grey))
    return cells | _coloured(found, colours)


def _crossing(found: Sequence[_Found]) -> Bool[np.ndarray, "g g"]:
    """Cells near lines of two directions that are upright to each other."""
    near = []
    for turn in np.arange(4) * np.pi / 4:
        along = [
            in_cells(one.lines[tone] & (np.abs(np.cos(one.across - turn)) > 0.9))
            for one in found[:2]
            for tone in _TONES
        ]
        near.append(blurred(blurred(np.any(along, axis=0).astype(np.float32))) > _CROSSED)
    return (near[0] & near[2]) | (near[1] & near[3])


def _coloured(
    found: Sequence[_Found], colours: Mapping[str, Float[np.ndarray, "h h"]]
) -> dict[str, Bool[np.ndarray, "g g"]]:
    """Spots and lines by their own colour, whatever is around them."""
    cells: dict[str, Bool[np.ndarray, "g g"]] = {}
    for colour, shares in colours.items():
        # Nothing is brighter than white or darker than black: such a spot is the edge of something else.
        tones = [tone for tone in _TONES if (tone, colour) not in (("dark", "white"), ("bright", "black"))]
        middle = halved(shares)
        shares_of = {"small": shares, "middle": middle, "large": halved(middle)}
        for name in COLOURED:
            of_sizes = [
                in_cells(getattr(one, name)[tone] & (shares_of[one.size] >= 0.5)) for one in found for tone in tones
            ]
            cells[f"{colour} {name}"] = np.any(of_sizes, axis=0)
    return cells


def _found(grey: Float[np.ndarray, "h h"]) -> Iterator[_Found]:
    """At every size, where the curvature is strong, and stronger than at the other sizes."""
    pictures = dict(zip(SIZES, (grey, halved(grey), halved(halved(grey))), strict=True))
    curved = {size: _curvatures(picture) for size, picture in pictures.items()}
    strongest = {size: spread(spread(np.abs(one.strong))) for size, one in curved.items()}
    for size, (strong, weak, slope, across) in curved.items():
        most = np.max([resized(other, len(strong)) for other in strongest.values()], axis=0)
        clear = (np.abs(strong) > _CURVED) & (np.abs(strong) >= _STRONGEST * most) & (slope < _LEVEL * np.abs(strong))
        spots = clear & (np.abs(weak) > _ROUND * np.abs(strong)) & (weak * strong > 0)
        lines = clear & (np.abs(weak) < _LONG * np.abs(strong))
        signs = {"bright": strong < 0, "dark": strong > 0}
        yield _Found(
            size,
            {tone: spots & sign for tone, sign in signs.items()},
            {tone: lines & sign for tone, sign in signs.items()},
            across,
        )


class _Curved(NamedTuple):
    """How brightness bends in every pixel."""

    strong: Float[np.ndarray, "h h"]
    weak: Float[np.ndarray, "h h"]
    """The principal curvatures, negative on a ridge."""
    slope: Float[np.ndarray, "h h"]
    across: Float[np.ndarray, "h h"]
    """The direction of the stronger curvature, from 0 (level) to π (level again)."""


def _curvatures(picture: Float[np.ndarray, "h h"]) -> _Curved:
    soft = blurred(blurred(picture))
    down, across = np.gradient(soft)
    above, here, below = _in_threes(soft, -2)
    left, here, right = _in_threes(soft, -1)
    yy, xx, xy = above + below - 2 * here, left + right - 2 * here, np.gradient(down)[1]
    middle, half = 0.5 * (xx + yy), np.sqrt(0.25 * (xx - yy) ** 2 + xy**2)
    strong, weak = (
        np.where(middle > 0, middle + half, middle - half),
        np.where(middle > 0, middle - half, middle + half),
    )
    turn = 0.5 * np.arctan2(2 * xy, xx - yy) + np.where(middle > 0, 0, np.pi / 2)
    return _Curved(strong, weak, np.hypot(down, across), turn % np.pi)


def _round_things(picture: Float[np.ndarray, "h h"]) -> Bool[np.ndarray, "g g"]:
    """Cells of circles: outlines that face one point from all eight directions at one distance.

    A fast radial symmetry transform (Loy and Zelinsky, 2003) that asks for every direction.
    """
    side = len(picture)
    down, across = np.gradient(blurred(picture))
    steep = np.hypot(down, across)
    rows, columns = np.nonzero(steep > _STEEP)
    step_down, step_across = (step[rows, columns] / steep[rows, columns] for step in (down, across))
    eighth = np.floor(np.arctan2(step_down, step_across) / (np.pi / 4)).astype(int) % 8
    inside = np.zeros((side, side), bool)
    for radius in _RADII:
        for sign in (1, -1):
            y, x = (
                np.rint(at + sign * radius * step).astype(int)
                for at, step in ((rows, step_down), (columns, step_across))
            )
            kept = (y >= 0) & (y < side) & (x >= 0) & (x < side)
            places = (eighth[kept] * side + y[kept]) * side + x[kept]
            votes = np.bincount(places, minlength=8 * side * side).reshape(8, side, side).astype(np.float32)
            facing = 9 * blurred(votes) >= _RING * radius * np.pi / 4
            for y0, x0 in np.argwhere(facing.all(0)).tolist():
                inside[_disc(side, y0, x0, radius)] = True
    return _any_of_cells(inside)


def _disc(side: int, y0: int, x0: int, radius: int) -> tuple[slice, slice]:
    """The square inside a circle."""
    half = round(0.8 * radius)
    return slice(max(0, y0 - half), y0 + half + 1), slice(max(0, x0 - half), x0 + half + 1)


def in_cells(pixels: Bool[np.ndarray, "h h"]) -> Bool[np.ndarray, "g g"]:
    """Cells that have any such pixel; where pixels are large, also those beside it, which its shape covers too."""
    return _any_of_cells(spread(pixels) if len(pixels) < 4 * GRID else pixels)


def _any_of_cells(pixels: Bool[np.ndarray, "h h"]) -> Bool[np.ndarray, "g g"]:
    while len(pixels) > GRID:
        above, below, right, corner = quarters(pixels)
        pixels = above | below | right | corner
    return pixels


def spread(values: np.ndarray) -> np.ndarray:
    """The highest of each pixel and its eight neighbours."""
    above, here, below = _in_threes(values, -2)
    left, here, right = _in_threes(np.maximum(np.maximum(above, here), below), -1)
    return np.maximum(np.maximum(left, here), right)


def blurred(cells: Float[np.ndarray, "*of h w"]) -> Float[np.ndarray, "*of h w"]:
    """The mean of each pixel and its eight neighbours."""
    above, here, below = _in_threes(cells, -2)
    left, here, right = _in_threes(above + here + below, -1)
    return (left + here + right) / 9


def _in_threes(values: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What is before each along one of the last two axes, itself, and what is after; itself again at the ends."""
    if axis == -1:
        first, last, start, end = values[..., :1], values[..., -1:], values[..., 1:], values[..., :-1]
    else:
        first, last, start, end = values[..., :1, :], values[..., -1:, :], values[..., 1:, :], values[..., :-1, :]
    return np.concatenate([first, end], axis), values, np.concatenate([start, last], axis)


def halved(picture: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "half_h half_w"]:
    """Half the sides, by means of four."""
    one, below, beside, corner = quarters(picture)
    return (one + below + beside + corner) / 4


def quarters(picture: np.ndarray) -> tuple[np.ndarray, ...]:
    """The four pixels of every block of two by two; numpy's reductions over blocks take several times as long."""
    return picture[::2, ::2], picture[1::2, ::2], picture[::2, 1::2], picture[1::2, 1::2]


def resized(picture: Float[np.ndarray, "h h"], side: int) -> Float[np.ndarray, "side side"]:
    """Another side by a power of two: repeated, or the highest of those that become one."""
    if len(picture) <= side:
        times = side // len(picture)
        return picture.repeat(times, 0).repeat(times, 1)
    times = len(picture) // side
    return picture.reshape(side, times, side, times).max((1, 3))
