"""Spots, lines and round things, found pixel by pixel at three sizes.

Axes: H × H pixels of one size of a picture, G × G cells, F × F small ones, C colours.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped, UInt8
from torch import Tensor

from mami_core.features.looks.colours import COLOURS
from mami_core.features.looks.grid import (
    FINE,
    IN_A_ROW,
    WAYS,
    Turn,
    any_of_cells,
    around,
    bends,
    blurred,
    highest,
    in_fine_cells,
    lengths,
    pooled,
    resized,
    slopes,
    spread,
    sums_of_four,
    sums_of_nine,
)

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
_BESIDE, _BOTH = 2, 0.25
"""How far beside a line its sides are, in pixels of its size; how much its brightness differs from the one against the
other, at least."""
_STRAIGHT = 1e-9
"""Curvatures that differ by less have no direction."""
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
COLOURED = ("spots", "lines")
"""What has a colour of its own: "red spots", of any size."""
COLOURED_SHAPES = tuple(f"{colour} {shape}" for colour in COLOURS for shape in COLOURED)


class _Found(NamedTuple):
    """What is in one pixel of one size."""

    size: str
    toned: Bool[Tensor, "b 4 h h"]
    """Bright spots, dark spots, bright lines, dark lines."""
    across: Turn
    """The direction across a line."""


def shape_cells(grey: Float[Tensor, "b 1 h h"], counts: UInt8[Tensor, "b c h h"]) -> dict[str, Bool[Tensor, "b 1 _ _"]]:
    """Where each of `SHAPES` is, and of `COLOURED_SHAPES`: spots and lines in small cells, patterns of them in cells.

    A spot or a line is told at the size at which it is clearest, and in small cells: beside each bright line there are
    dark ones.

    Args:
        grey: The picture's brightness.
        counts: How many of four pixels have each colour.
    """
    cells: dict[str, Bool[Tensor, "b 1 _ _"]] = {}
    found = _found(grey)
    for one in found:
        names = [_toned(tone, of[one.size]) for of in (_SPOTS, _LINES) for tone in _TONES]
        cells |= dict(zip(names, _in_fine_cells(one.toned).split(1, 1), strict=True))
    small = [cells[_toned(tone, _SPOTS[size])] for tone in _TONES for size in ("small", "middle")]
    dots = any_of_cells(torch.cat(small, 1).any(1, keepdim=True))
    cells["dotted patterns"] = dots & (around(dots) > _DENSE)
    cells["crossing lines"] = _crossing(found[:2])
    cells["round shapes"] = _round_things(pooled(grey, grey.shape[-1] // 2))
    return cells | _coloured(found, counts)


def _crossing(found: Sequence[_Found]) -> Bool[Tensor, "b 1 g g"]:
    """Cells near lines of two directions that are upright to each other."""
    along = [_in_fine_cells(one.toned[:, 2:].any(1, keepdim=True) & one.across.near(len(WAYS))) for one in found]
    near = around(any_of_cells(torch.stack(along).any(0))) > _CROSSED
    return (near[:, :2] & near[:, 2:]).any(1, keepdim=True)


def _coloured(found: Sequence[_Found], counts: UInt8[Tensor, "b c h h"]) -> dict[str, Bool[Tensor, "b 1 f f"]]:
    """Spots and lines by their own colour, whatever is around them."""
    assert COLOURS[:2] == ("black", "white")
    of_sizes = []
    for number, one in enumerate(found):
        if number:
            counts = sums_of_four(counts)
        shares = counts >= 2 * 4**number
        bright, dark = one.toned[:, ::2, None], one.toned[:, 1::2, None]
        # Nothing is brighter than white or darker than black: such a spot is the edge of something else.
        shapes = torch.cat([dark, bright, (bright | dark).expand(-1, -1, len(COLOURS) - 2, -1, -1)], 2)
        of_sizes.append(_in_fine_cells((shapes & shares[:, None]).flatten(1, 2)))
    every = torch.stack(of_sizes).any(0).unflatten(1, (len(COLOURED), len(COLOURS))).transpose(1, 2).flatten(1, 2)
    return dict(zip(COLOURED_SHAPES, every.split(1, 1), strict=True))


def _found(grey: Float[Tensor, "b 1 h h"]) -> list[_Found]:
    """At every size, where the curvature is strong, and stronger than at the other sizes."""
    side = grey.shape[-1]
    curved = [_curvatures(pooled(grey, side // 2**number)) for number in range(len(SIZES))]
    strongest = [highest(one.strong.abs()) for one in curved]
    return [_at_size(size, one, strongest) for size, one in zip(SIZES, curved, strict=True)]


class _Curved(NamedTuple):
    """How brightness bends in every pixel."""

    strong: Float[Tensor, "b 1 h h"]
    weak: Float[Tensor, "b 1 h h"]
    """The principal curvatures, negative on a ridge."""
    slope: Float[Tensor, "b 1 h h"]
    across: Turn
    """The direction of the stronger curvature; 0 is level."""
    soft: Float[Tensor, "b 1 h h"]
    """The brightness whose curvature it is."""


def _curvatures(picture: Float[Tensor, "b 1 h h"]) -> _Curved:
    soft = blurred(blurred(picture))
    down, across = slopes(soft)
    yy, xx = bends(soft)
    xy = slopes(down)[1]
    middle, half = 0.5 * (xx + yy), (0.25 * (xx - yy).square() + xy.square()).sqrt()
    half = torch.where(middle > 0, half, -half)  # the stronger has the sign of both' mean
    apart = torch.where(half.abs() < _STRAIGHT, _STRAIGHT, half)
    turn = Turn(0.5 * (xx - yy) / apart, xy / apart)
    return _Curved(middle + half, middle - half, lengths(down, across), turn, soft)


def _at_size(size: str, curved: _Curved, strongest: Sequence[Tensor]) -> _Found:
    strong, weak, slope, across, soft = curved
    strength = strong.abs()
    clear = (strength > _CURVED) & (slope < _LEVEL * strength)
    for other in strongest:
        clear &= strength >= _STRONGEST * resized(other, strong.shape[-1])
    spots = clear & (weak.abs() > _ROUND * strength) & (weak * strong > 0)
    lines = clear & (weak.abs() < _LONG * strength)
    bright = strong < 0
    # The stronger curvature is level across what goes the first of `WAYS`, then falls, is upright, and rises.
    one_way = lines & across.near(len(WAYS)) & _between(soft)
    toned = [_long(one_way & tone) for tone in (bright, ~bright)]
    return _Found(size, torch.cat([spots & bright, spots & ~bright, *toned], 1), across)


def _between(soft: Float[Tensor, "b 1 h h"]) -> Bool[Tensor, "b ways h h"]:
    """Whether brightness falls, or rises, to both sides of what goes each of `WAYS`: at an edge it does to one."""
    wide = F.pad(soft, (_BESIDE,) * 4, mode="replicate").expand(-1, len(WAYS), -1, -1)
    sideways = tuple((-right, down) for down, right in WAYS)  # turned by a quarter
    one, other = (soft - _at(wide, sideways, by, _BESIDE) for by in (_BESIDE, -_BESIDE))
    less, more = torch.minimum(one.abs(), other.abs()), torch.maximum(one.abs(), other.abs())
    return (one * other > 0) & (less > _BOTH * more)


def _long(along: Bool[Tensor, "b ways h h"]) -> Bool[Tensor, "b 1 h h"]:
    """What goes on one way for a line's length: the middle of a blob bends as a line does, but ends soon."""
    whole = spread(along)
    for step in IN_A_ROW:
        whole = whole & _at(F.pad(whole, (step,) * 4), WAYS, step, step)
    for step in IN_A_ROW:
        whole = whole | _at(F.pad(whole, (step,) * 4), WAYS, -step, step)
    return (along & whole).any(1, keepdim=True)


def _at(
    wide: Shaped[Tensor, "b ways wide wide"], ways: Sequence[tuple[int, int]], by: int, frame: int
) -> Shaped[Tensor, "b ways h h"]:
    """For each way what is so many steps on from every pixel, given a frame of pixels around."""
    side = wide.shape[-1] - 2 * frame
    corners = [(frame + by * down, frame + by * right) for down, right in ways]
    return torch.stack([wide[:, way, y : y + side, x : x + side] for way, (y, x) in enumerate(corners)], 1)


def _round_things(picture: Float[Tensor, "b 1 h h"]) -> Bool[Tensor, "b 1 g g"]:
    """Cells of circles: outlines that face one point from all eight directions at one distance.

    A fast radial symmetry transform (Loy and Zelinsky, 2003) that asks for every direction.
    """
    facing = _facing(picture)
    inside = torch.zeros_like(facing[:, :1])
    halves = [round(0.8 * radius) for radius in _RADII]
    # The squares inside the circles, from the largest on: what lies in a larger one grows on with those that follow.
    for number, by in reversed(list(enumerate(np.diff([0, *halves]).tolist()))):
        inside = spread(inside | facing[:, number : number + 1], by)
    return any_of_cells(inside)


def _facing(picture: Float[Tensor, "b 1 h h"]) -> Bool[Tensor, "b radii h h"]:
    """Whether outlines face each point from all directions, bright or dark inside."""
    side, device = picture.shape[-1], picture.device
    down, across = slopes(blurred(picture))
    steep = lengths(down, across)
    eighth = (down > 0).int() + 2 * (across > 0).int() + 4 * (down.abs() > across.abs()).int()
    at = torch.arange(side, device=device, dtype=torch.float32)
    ways, enough = _circles(device)
    far = ways / steep.clamp(min=_STEEP)
    y, x = (at[:, None] + far * down).round().int(), (at + far * across).round().int()
    votes_for = (steep > _STEEP) & (y >= 0) & (y < side) & (x >= 0) & (x < side)
    places = ((eighth * side + y) * side + x).where(votes_for, 0).long()
    votes = torch.zeros(*places.shape[:2], 8 * side * side, dtype=torch.uint8, device=device)
    votes.scatter_add_(2, places.flatten(2), votes_for.to(torch.uint8).flatten(2))
    near = sums_of_nine(F.pad(votes.unflatten(2, (8, side, side)), (1, 1, 1, 1)))
    return (near.unflatten(1, (-1, 2)) >= enough).all(3).any(2)


@functools.cache
def _circles(device: torch.device) -> tuple[Float[Tensor, "two_radii 1 1"], UInt8[Tensor, "radii 1 1 1 1"]]:
    """How far to go along the gradient and against it, and how much of every eighth must be outline."""
    far = torch.tensor([sign * radius for radius in _RADII for sign in (1.0, -1.0)])
    enough = torch.tensor([math.ceil(_RING * radius * math.pi / 4) for radius in _RADII], dtype=torch.uint8)
    return far[:, None, None].to(device), enough[:, None, None, None, None].to(device)


def _in_fine_cells(pixels: Bool[Tensor, "b c h h"]) -> Bool[Tensor, "b c f f"]:
    """Small cells that have any such pixel; where pixels are large, also those beside it, which its shape covers."""
    return any_of_cells(pixels, FINE) if pixels.shape[-1] > FINE else in_fine_cells(spread(pixels))
