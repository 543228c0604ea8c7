"""One vector a region: every level of a feature pyramid averaged under it, the levels one after the other.

Axes: R regions of an image, G the side of their grid, L levels, C channels of a level, S the side of its maps.
"""

import functools
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

Pooling = Literal["area", "bilinear"]

NUM_PLACE = 5
"""Numbers in `place`."""

_ROWS = 16
"""Regions to a matrix product. Always as many, because a product's rounding depends on its number of rows: so a
region's features do not depend on which other regions share its image."""
_COLUMNS = 16
"""Channels to a matrix product, at least: with less than a dozen, rounding depends on the row's place too."""


def pool(
    pyramid: Sequence[Float[Tensor, "_ _ _"]],
    regions: Float[Tensor, "r g g"] | Bool[Tensor, "r g g"],
    *,
    pooling: Pooling = "area",
) -> Float[Tensor, "r features"]:
    """The mean of each level under each region of one image.

    Args:
        pyramid: The image's maps at each level, [C, S, S]; fastest where channels are last in memory.
        regions: What belongs to each region: true, or a weight of at least 0.
        pooling: "area" gives each position of a level the weight of the area that the region covers in it, so that
            a region of any size counts at every level. "bilinear" interpolates the region at the level's positions,
            as MILAN does; a small region can miss all positions of a coarse level, whose features are then 0.

    Returns:
        float32 vectors, as long as the levels have channels; 0 for an empty region.
    """
    positions_by_level = [_positions(level) for level in pyramid]
    sides = [level.shape[1] for level in pyramid]
    vectors = regions.new_empty(len(regions), sum(len(level) for level in pyramid), dtype=torch.float32)
    for start in range(0, len(regions), _ROWS):
        block = _block(regions[start : start + _ROWS])
        means = [
            _means(weights, positions)[:, : len(level)]
            for weights, positions, level in zip(
                _at_levels(block, sides, pooling), positions_by_level, pyramid, strict=True
            )
        ]
        vectors[start : start + _ROWS] = torch.cat(means, 1)[: len(regions) - start]
    return vectors


def pool_batch(
    pyramid: Sequence[Float[Tensor, "b _ _ _"]],
    regions: Float[Tensor, "r g g"] | Bool[Tensor, "r g g"],
    rows: Int64[Tensor, " r"],
    *,
    pooling: Pooling = "area",
) -> Float[Tensor, "r features"]:
    """`pool` for the regions of several images, with the same bits.

    Args:
        pyramid: The images' maps at each level, [B, C, S, S].
        regions: What belongs to each region.
        rows: Which of the B images each region belongs to, in any order.
        pooling: As in `pool`.
    """
    order = rows.argsort(stable=True)
    counts = torch.bincount(rows, minlength=len(pyramid[0])).tolist()
    parts = [
        pool([level[row] for level in pyramid], regions[of_image], pooling=pooling)
        for row, of_image in enumerate(order.split(counts))
        if len(of_image)
    ]
    vectors = regions.new_empty(len(regions), sum(level.shape[1] for level in pyramid), dtype=torch.float32)
    if parts:
        vectors[order] = torch.cat(parts)
    return vectors


def place(regions: Float[Tensor, "r g g"] | Bool[Tensor, "r g g"]) -> Float[Tensor, "r place"]:
    """Where regions lie and how large they are, `NUM_PLACE` numbers each.

    Centre across and down (−1 at the left and upper border, 1 at the others), standard deviation about it across and
    down in the same unit, and the square root of the region's share of the image. 0 for an empty region.
    """
    side = regions.shape[-1]
    at = (torch.arange(side, device=regions.device) * 2 + 1 - side) / side
    found = []
    for start in range(0, len(regions), _ROWS):
        block = _block(regions[start : start + _ROWS])
        total = block.sum((1, 2))
        weights = block / total.clamp_min(torch.finfo(torch.float32).tiny)[:, None, None]
        lines = torch.stack([weights.sum(1), weights.sum(2)], 1)  # shares by column, by row
        centre = (lines * at).sum(2)
        spread = (lines * (at - centre[..., None]).square()).sum(2).sqrt()
        size = (total / side**2).sqrt()[:, None]
        found.append(torch.cat([centre, spread, size], 1)[: len(regions) - start])
    return torch.cat(found) if found else regions.new_empty(0, NUM_PLACE, dtype=torch.float32)


def _positions(level: Float[Tensor, "c s s"]) -> Float[Tensor, "positions columns"]:
    """One row a position; no copy where channels are last in memory."""
    rows = level.permute(1, 2, 0).flatten(0, 1).float().contiguous()
    return rows if len(level) >= _COLUMNS else F.pad(rows, (0, _COLUMNS - len(level)))


def _means(weights: Float[Tensor, "rows s s"], positions: Tensor) -> Float[Tensor, "rows columns"]:
    """The positions' weighted means; 0 where all weights are 0."""
    total = weights.sum((1, 2)).clamp_min(torch.finfo(torch.float32).tiny)
    return weights.flatten(1) @ positions / total[:, None]


def _block(regions: Tensor) -> Float[Tensor, "rows g g"]:
    """Up to `_ROWS` regions as numbers, filled up with empty ones."""
    block = regions.to(torch.float32)
    return block if len(block) == _ROWS else F.pad(block, (0, 0, 0, 0, 0, _ROWS - len(block)))


def _at_levels(regions: Float[Tensor, "rows g g"], sides: Sequence[int], pooling: Pooling) -> list[Tensor]:
    """The regions' weights at grids of these sides, not yet divided by their sums."""
    if pooling == "bilinear":
        return [F.interpolate(regions[:, None], size=(side, side), mode="bilinear")[:, 0] for side in sides]
    by_side = {regions.shape[-1]: regions}
    for side in sorted(set(sides), reverse=True):
        by_side[side] = _resized_by_area(by_side, side, regions)
    return [by_side[side] for side in sides]


def _resized_by_area(by_side: dict[int, Tensor], side: int, regions: Tensor) -> Tensor:
    """Regions on a grid of another side: their sum stays, each cell's share going where its area lies."""
    if side in by_side:
        return by_side[side]
    if 2 * side in by_side or 4 * side in by_side:
        return _halved(_resized_by_area(by_side, 2 * side, regions))
    shares = _area_shares(regions.shape[-1], side, regions.device)
    return shares @ regions @ shares.T


def _halved(regions: Float[Tensor, "rows g g"]) -> Float[Tensor, "rows h h"]:
    """2 × 2 cells become their sum. Adding slices is ten times faster than average pooling on a CPU."""
    rows = regions[:, ::2] + regions[:, 1::2]
    return rows[:, :, ::2] + rows[:, :, 1::2]


@functools.lru_cache(maxsize=64)
def _area_shares(source: int, target: int, device: torch.device) -> Float[Tensor, "target source"]:
    """Which share of each of `source` equal cells lies in each of `target` equal cells of the same line.

    Every column sums to 1. In units of 1 / (source · target) the cells' ends are whole numbers.
    """
    ends_source = torch.arange(source + 1) * target
    ends_target = torch.arange(target + 1) * source
    last = torch.minimum(ends_target[1:, None], ends_source[1:])
    first = torch.maximum(ends_target[:-1, None], ends_source[:-1])
    return ((last - first).clamp_min(0).to(torch.float32) / target).to(device)
