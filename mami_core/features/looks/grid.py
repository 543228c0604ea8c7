"""Arithmetic on neighbouring pixels.

Only what a device rounds in one way (sums, products, quotients, square roots): an angle's last bit can depend on the
place in the batch, and so could a map's.

Axes: H × W pixels, G × G cells, F × F small cells.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

GRID, FINE = 32, 64
"""Cells along each side of a picture: those in which a texture is told, and small ones, in which a colour is."""
WAYS, IN_A_ROW = ((1, 0), (1, -1), (0, 1), (1, 1)), (1, 2, 2)
"""Upright, rising to the right, level and falling to the right: steps down and to the right, each upright to the second
one after it. Steps that look at six in a row: three times a line's width, the least of its length."""
_AKIN = 26
"""Degrees between lines that go one way."""


def blurred(values: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """The mean of each pixel and its eight neighbours; at the borders pixels stand for those that lack."""
    return sums_of_nine(F.pad(values, (1, 1, 1, 1), mode="replicate")) / 9


def around(values: Shaped[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """The mean of each pixel and those up to two around it, near ones counting more."""
    return blurred(blurred(values.float()))


def sums_of_nine(padded: Shaped[Tensor, "*of h_and_two w_and_two"]) -> Shaped[Tensor, "*of h w"]:
    """Each pixel and its eight neighbours added up, given one more pixel on every side."""
    rows = padded[..., :-2, :] + padded[..., 1:-1, :] + padded[..., 2:, :]
    return rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]


def slopes(values: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
    """How fast values grow downwards and to the right, a pixel."""
    padded = F.pad(values, (1, 1, 1, 1), mode="replicate")
    return (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2, (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2


def lengths(down: Float[Tensor, "b c h w"], across: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Of what goes so far downwards and so far across."""
    return (down.square() + across.square()).sqrt()


def bends(values: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
    """How fast these slopes grow themselves, downwards and to the right."""
    padded, twice = F.pad(values, (1, 1, 1, 1), mode="replicate"), 2 * values
    down = padded[..., 2:, 1:-1] + padded[..., :-2, 1:-1] - twice
    return down, padded[..., 1:-1, 2:] + padded[..., 1:-1, :-2] - twice


def quarters(values: Shaped[Tensor, "*of h w"]) -> tuple[Tensor, ...]:
    """The four pixels of every block of two by two."""
    return values[..., ::2, ::2], values[..., 1::2, ::2], values[..., ::2, 1::2], values[..., 1::2, 1::2]


def sums_of_four(values: Shaped[Tensor, "*of h w"]) -> Shaped[Tensor, "*of half_h half_w"]:
    """The pixels of every block of two by two added up."""
    above, below, right, corner = quarters(values)
    return above + below + right + corner


def pooled(values: Float[Tensor, "*of h w"], side: int) -> Float[Tensor, "*of {side} {side}"]:
    """Means over equal blocks, whose sides are a power of two."""
    while values.shape[-1] > side:
        values = sums_of_four(values) / 4
    return values


def any_of_cells(pixels: Bool[Tensor, "*of h w"], side: int = GRID) -> Bool[Tensor, "*of {side} {side}"]:
    """Of so many cells a side, those in which any pixel is true."""
    while pixels.shape[-1] > side:
        above, below, right, corner = quarters(pixels)
        pixels = above | below | right | corner
    return pixels


def in_fine_cells(cells: Shaped[Tensor, "*of g g"]) -> Shaped[Tensor, "*of f f"]:
    """The same of each cell's small ones."""
    side = cells.shape[-1]
    by = FINE // side
    return cells[..., :, None, :, None].expand(*cells.shape[:-1], by, side, by).reshape(*cells.shape[:-2], FINE, FINE)


def spread(pixels: Bool[Tensor, "b c h w"], by: int = 1) -> Bool[Tensor, "b c h w"]:
    """True also so many pixels around every true one, in a square."""
    for _ in range(by):
        padded = F.pad(pixels, (1, 1, 1, 1))
        rows = padded[..., :-2, :] | padded[..., 1:-1, :] | padded[..., 2:, :]
        pixels = rows[..., :-2] | rows[..., 1:-1] | rows[..., 2:]
    return pixels


def highest(values: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """The highest of each pixel and those up to two around it, in a square."""
    return F.max_pool2d(F.max_pool2d(values, (5, 1), stride=1, padding=(2, 0)), (1, 5), stride=1, padding=(0, 2))


def resized(values: Float[Tensor, "b c h h"], side: int) -> Float[Tensor, "b c {side} {side}"]:
    """Another side by a power of two: repeated, or the highest of those that become one."""
    if values.shape[-1] <= side:
        return F.interpolate(values, size=(side, side), mode="nearest")
    return F.max_pool2d(values, values.shape[-1] // side)


class Turn(NamedTuple):
    """An orientation, by the cosine and sine of twice its angle: turned by half a circle it is the same."""

    cosine: Float[Tensor, "b 1 h w"]
    sine: Float[Tensor, "b 1 h w"]

    def off(self, degrees: float) -> Bool[Tensor, "b 1 h w"]:
        """Whether it is further than so much from an angle of 0, of at most 90 degrees."""
        return self.cosine < math.cos(math.radians(2 * degrees))

    def near(self, number: int) -> Bool[Tensor, "b turns h w"]:
        """Of so many orientations, evenly apart from 0 on, those that are less than `_AKIN` degrees off."""
        twice = torch.arange(number, device=self.cosine.device) * (2 * math.pi / number)
        cosines, sines = (of(twice)[:, None, None] for of in (torch.cos, torch.sin))
        return self.cosine * cosines + self.sine * sines > math.cos(math.radians(2 * _AKIN))
