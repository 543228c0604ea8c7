"""What form regions have, whatever the picture shows: a strip along an edge is a strip to whoever looks at it.

A row of a region's cells is one whole number, a bit a cell, the first cell the lowest: 64 cells at a time.

Axes: R regions, G × G cells of a region, F rows of small cells (`looks.FINE`), ways as in `WAYS`.
"""

import functools

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from mami_core.features.looks.grid import FINE, IN_A_ROW, WAYS

STRIPS = (
    "vertical strips",
    "diagonal strips rising to the right",
    "horizontal strips",
    "diagonal strips falling to the right",
)
FORMS = (*STRIPS, "specks")
NUM_FORMS = len(FORMS)
"""Numbers in `form_shares`. Strips are in the order of `WAYS`."""

_WIDE = (1, 1)
"""Steps that look at three cells in a row, which are too many across a strip."""
_EVEN, _PAIRS, _HALVES, _BYTES = 0x5555555555555555, 0x3333333333333333, 0x0F0F0F0F0F0F0F0F, 0x0101010101010101
"""Every other bit, pair of bits and half of a byte; the first bit of every byte."""
_AT_ONCE_CPU = 256
"""Regions that a CPU works on at once: what is made of them on the way stays in its cache."""

Rows = Int64[Tensor, "r ways f"]


@torch.inference_mode()
def form_shares(regions: Float[Tensor, "r g g"] | Bool[Tensor, "r g g"]) -> Float[Tensor, "r forms"]:
    """The share of each region that has each of `FORMS`; 0 for an empty region.

    A strip goes on one way for about six cells or more, and is one or two cells wide; what lies in a strip of cells
    twice as large goes the way of that one. Specks go on no way.
    """
    together = _AT_ONCE_CPU if regions.device.type == "cpu" else max(1, len(regions))
    found = [_shares(some) for some in regions.split(together)]
    return torch.cat(found) if found else regions.new_empty(0, NUM_FORMS, dtype=torch.float32)


def _shares(regions: Float[Tensor, "r g g"] | Bool[Tensor, "r g g"]) -> Float[Tensor, "r forms"]:
    cells = _rows(_small(regions))
    long, strips = _strips(cells, 1)
    large = _strips(_in_twos(cells), 2)[1] & cells
    counts = _num_bits(torch.cat([large | strips & ~_any_way(large), cells & ~_any_way(long), cells], 1))
    return counts[:, :-1] / counts[:, -1:].clamp(min=1)


def _strips(cells: Int64[Tensor, "r 1 f"], size: int) -> tuple[Rows, Rows]:
    """What goes on each way, and of it what neither goes on across nor is wide, in cells of so many small ones."""
    long = cells & _in_rows(_spread(cells, size), [size * step for step in IN_A_ROW])
    wide = _in_rows(cells, [size * step for step in _WIDE])
    return long, long & ~(long | wide).roll(len(WAYS) // 2, 1)


def _in_rows(cells: Int64[Tensor, "r 1 f"], steps: list[int]) -> Rows:
    """What lies in a row each way: of as many cells as there are steps in all, and one."""
    found = cells.expand(-1, len(WAYS), -1)
    for step in steps:
        found = found & _moved(found, -step)
    for step in steps:
        found = found | _moved(found, step)
    return found


def _any_way(cells: Rows) -> Int64[Tensor, "r 1 f"]:
    return functools.reduce(torch.bitwise_or, cells.split(1, 1))


def _moved(cells: Rows, by: int) -> Rows:
    """Each way so many steps on."""
    each = zip(WAYS, cells.unbind(1), strict=True)
    return torch.stack([_aside(_down(rows, by * down), by * right) for (down, right), rows in each], 1)


def _spread(cells: Int64[Tensor, "r 1 f"], by: int) -> Int64[Tensor, "r 1 f"]:
    """And their neighbours, so many cells away."""
    cells = cells | _down(cells, by) | _down(cells, -by)
    return cells | _aside(cells, by) | _aside(cells, -by)


def _down(cells: Int64[Tensor, "*of f"], by: int) -> Int64[Tensor, "*of f"]:
    return F.pad(cells, (by, -by)) if by else cells


def _aside(cells: Int64[Tensor, "*of f"], by: int) -> Int64[Tensor, "*of f"]:
    if by >= 0:
        return cells << by if by else cells
    return (cells >> -by) & (1 << FINE + by) - 1  # a shift to the right brings in the sign


def _in_twos(cells: Int64[Tensor, "r 1 f"]) -> Int64[Tensor, "r 1 f"]:
    """Cells of two by two small ones: whole where half of them are in the region, and else empty."""
    above, below = cells[..., ::2], cells[..., 1::2]
    right_above, right_below = _aside(above, -1), _aside(below, -1)
    half = above & right_above | below & right_below | (above | right_above) & (below | right_below)
    half = half & _EVEN
    return (half | half << 1)[..., None].expand(-1, -1, -1, 2).flatten(-2)


def _rows(cells: Bool[Tensor, "r 1 f f"]) -> Int64[Tensor, "r 1 f"]:
    bits = cells.to(torch.uint8)
    for by in (1, 2, 4):
        bits = bits[..., ::2] | bits[..., 1::2] << by
    return bits.contiguous().view(torch.int64)[..., 0]


def _small(regions: Float[Tensor, "r g g"] | Bool[Tensor, "r g g"]) -> Bool[Tensor, "r 1 f f"]:
    """The small cells of which half lies in the region."""
    if regions.dtype != torch.bool or regions.shape[-1] != 2 * FINE:
        return F.adaptive_avg_pool2d(regions[:, None].float(), FINE) >= 0.5
    # The same, ten times as fast: two bytes at a time.
    inside = regions.view(torch.uint8)
    twos = (inside[:, ::2] + inside[:, 1::2]).contiguous().view(torch.int16)
    return ((twos >> 8) + (twos & 255) >= 2)[:, None]


def _num_bits(rows: Int64[Tensor, "r n f"]) -> Int64[Tensor, "r n"]:
    """Added up in pairs, fours and bytes of each number, all at once."""
    rows = rows - (rows >> 1 & _EVEN)
    rows = (rows & _PAIRS) + (rows >> 2 & _PAIRS)
    rows = rows + (rows >> 4) & _HALVES
    return (rows * _BYTES >> 56).sum(-1)
