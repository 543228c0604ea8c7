"""One vector a region: every level of a feature pyramid averaged under it, the levels one after the other.

Axes: B images, R regions, G the side of their grid, C channels of a level, S the side of its maps; N blocks of `_rows`
regions each, those of a block from one image.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from mami_core import kernels
from mami_core.device import to_device

Pooling = Literal["area", "bilinear"]

NUM_PLACE = 5
"""Numbers in `place`."""

_ROWS_CPU, _ROWS_ACCELERATOR = 16, 64
"""Regions to a matrix product. Always as many, because a product's rounding depends on its number of rows: so a
region's features do not depend on which other regions share its image."""
_NOTHING = 1e-8
"""MILAN takes weights up to here for zeros."""
_COLUMNS = 16
"""Channels to a matrix product, at least: with less than a dozen, rounding depends on the row's place too."""
_NUMBERS_CPU = 1 << 20
"""Of regions that a CPU works on at once: what is made of them on the way stays in its cache."""
_MOST_CELLS = 255
"""Side of the largest grid whose cells half precision can count."""
_TOGETHER_ACCELERATOR = 64
"""Blocks that an accelerator works on at once. Always as many: how it multiplies depends on their number too."""


def pool(
    pyramid: Sequence[Float[Tensor, "_ _ _"]],
    regions: Float[Tensor, "r g g"] | Bool[Tensor, "r g g"],
    *,
    pooling: Pooling = "area",
) -> Float[Tensor, "r features"]:
    """The mean of each level under each region of one image, given its maps at each level, [C, S, S]."""
    rows = torch.zeros(len(regions), dtype=torch.int64)
    return pool_batch([level[None] for level in pyramid], regions, rows, pooling=pooling)


def pool_batch(
    pyramid: Sequence[Float[Tensor, "b _ _ _"]],
    regions: Float[Tensor, "r g g"] | Bool[Tensor, "r g g"],
    rows: Int64[Tensor, " r"],
    *,
    pooling: Pooling = "area",
) -> Float[Tensor, "r features"]:
    """The mean of each level under each region: the same bits whatever other images and regions there are.

    Args:
        pyramid: The images' maps at each level, [B, C, S, S]; fastest where channels are last in memory and the images
            with most regions come first.
        regions: What belongs to each region: true, or a weight of at least 0.
        rows: Which of the B images each region belongs to, in any order; on the CPU, so that no accelerator is waited
            for.
        pooling: "area" gives each position of a level the weight of the area that the region covers in it, so that
            a region of any size counts at every level. "bilinear" interpolates the region at the level's positions,
            as MILAN does; a small region can miss all positions of a coarse level, whose features are then 0.

    An accelerator multiplies in the precision of the levels, and adds up in float32.

    Returns:
        float32 vectors, as long as the levels have channels; 0 for an empty region.
    """
    num_features = sum(level.shape[1] for level in pyramid)
    if not len(regions):
        return regions.new_empty(0, num_features, dtype=torch.float32)
    in_blocks = _by_image if _on_cpu(regions) else _by_round
    blocks = in_blocks(rows.numpy(force=True))
    places, slots = (to_device(numbers, regions.device) for numbers in (blocks.regions, blocks.slots))
    positions = [_positions(level) for level in pyramid]
    weigh = _weigher(regions, blocks.size, [level.shape[2] for level in pyramid], pooling, positions[0].dtype)
    found = []
    for chunk in _chunks(blocks, regions):
        images = blocks.images[chunk]
        weighed = weigh(places[chunk.start * blocks.size : chunk.stop * blocks.size])
        means = [
            _means(weights, total, _of_images(level, images))
            for (weights, total), level in zip(weighed, positions, strict=True)
        ]
        found.append(torch.cat([each[..., : level.shape[1]] for each, level in zip(means, pyramid, strict=True)], 2))
    return torch.cat(found).flatten(0, 1)[slots]


def place(regions: Float[Tensor, "r g g"] | Bool[Tensor, "r g g"]) -> Float[Tensor, "r place"]:
    """Where regions lie and how large they are, `NUM_PLACE` numbers each.

    Centre across and down (−1 at the left and upper border, 1 at the others), standard deviation about it across and
    down in the same unit, and the square root of the region's share of the image. 0 for an empty region.
    """
    side = regions.shape[-1]
    at = (torch.arange(side, device=regions.device) * 2 + 1 - side) / side
    num_rows = _ROWS_CPU if _on_cpu(regions) else _ROWS_ACCELERATOR
    found = []
    for some in regions.split(max(num_rows, _NUMBERS_CPU // side**2 // num_rows * num_rows)):
        missing = -len(some) % num_rows
        block = F.pad(some.float(), (0, 0, 0, 0, 0, missing)).unflatten(0, (-1, num_rows))
        lines = torch.stack([block.sum(2), block.sum(3)], 2)  # numbers by column, by row
        total = lines[:, :, 0].sum(2)
        lines = lines / total.clamp_min(torch.finfo(torch.float32).tiny)[..., None, None]
        centre = (lines * at).sum(3)
        spread = (lines * (at - centre[..., None]).square()).sum(3).sqrt()
        size = (total / side**2).sqrt()[..., None]
        found.append(torch.cat([centre, spread, size], 2).flatten(0, 1)[: len(some)])
    return torch.cat(found) if found else regions.new_empty(0, NUM_PLACE, dtype=torch.float32)


# --- blocks ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Blocks:
    """Regions in blocks of one size."""

    size: int
    images: np.ndarray
    """Each block's image."""
    regions: np.ndarray
    """The region in each place of each block; where there is none, one number more than there are regions."""
    slots: np.ndarray
    """Each region's place."""


def _by_image(rows: np.ndarray) -> _Blocks:
    """All blocks of an image, then those of the next: its maps are read while a CPU's cache holds them."""
    number = _number_in_image(rows) // _ROWS_CPU
    return _in_blocks(rows * (int(number.max()) + 1) + number, rows, _ROWS_CPU, 1)


def _by_round(rows: np.ndarray) -> _Blocks:
    """The first block of every image, then the second of those that have one, and so on.

    Where images with most regions come first, each round's images lie side by side. Filled up with empty blocks to as
    many as an accelerator works on at once.
    """
    number = _number_in_image(rows) // _ROWS_ACCELERATOR
    return _in_blocks(number * (int(rows.max()) + 1) + rows, rows, _ROWS_ACCELERATOR, _TOGETHER_ACCELERATOR)


def _number_in_image(rows: np.ndarray) -> np.ndarray:
    """Of each region, among those of its image."""
    order = np.argsort(rows, kind="stable")
    number = np.empty_like(rows)
    number[order] = np.arange(len(rows)) - np.searchsorted(rows[order], rows[order])
    return number


def _in_blocks(keys: np.ndarray, rows: np.ndarray, size: int, together: int) -> _Blocks:
    """Regions of one key, at most `size`, share a block; blocks are in the order of their keys."""
    _, first, block = np.unique(keys, return_index=True, return_inverse=True)
    images = np.pad(rows[first], (0, -len(first) % together))
    slots = block * size + _number_in_image(block)
    regions = np.full(len(images) * size, len(rows))
    regions[slots] = np.arange(len(rows))
    return _Blocks(size, images, regions, slots)


def _chunks(blocks: _Blocks, regions: Tensor) -> Iterator[slice]:
    """Blocks that are worked on together: on a CPU of one image or of neighbours, so that nothing is copied."""
    end = len(blocks.images)
    if not _on_cpu(regions):
        yield from (slice(first, first + _TOGETHER_ACCELERATOR) for first in range(0, end, _TOGETHER_ACCELERATOR))
        return
    most = max(1, _NUMBERS_CPU // (blocks.size * regions.shape[1] * regions.shape[2]))
    steps = np.diff(blocks.images)
    start = 0
    while start < end:
        ahead = steps[start : min(start + most, end) - 1]
        same = ahead == ahead[0] if len(ahead) and ahead[0] in (0, 1) else ahead[:0]
        stop = start + 1 + int(np.argmin(np.append(same, False)))
        yield slice(start, stop)
        start = stop


def _of_images(level_BPC: Tensor, images: np.ndarray) -> Float[Tensor, "blocks positions columns"]:
    """Each block's image's positions: a view where the images lie side by side, or on a CPU are the same."""
    first, last = int(images[0]), int(images[-1])
    if _on_cpu(level_BPC) and (images == first).all():
        return level_BPC[first : first + 1].expand(len(images), -1, -1)
    if np.array_equal(images, np.arange(first, last + 1)):
        return level_BPC[first : last + 1]
    return level_BPC[to_device(images, level_BPC.device)]


def _on_cpu(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"


# --- levels ----------------------------------------------------------------------------------------------------------


_Weighed = list[tuple[Float[Tensor, "blocks rows positions"], Float[Tensor, "blocks rows 1"]]]


def _weigher(
    regions: Tensor, rows: int, sides: Sequence[int], pooling: Pooling, dtype: torch.dtype
) -> Callable[[Int64[Tensor, " places"]], _Weighed]:
    """Says, for each level, how much of the region in each place lies in each position, and in all.

    The place of a region that is not there is empty; `rows` places make a block.
    """
    if pooling == "area" and kernels.serve(regions) and kernels.can_weigh(regions, sides):

        def by_kernel(places: Int64[Tensor, " places"]) -> _Weighed:
            weights, total = kernels.weigh(regions, places, sides, dtype)
            return [(of_level.unflatten(0, (-1, rows)), total.view(-1, rows, 1)) for of_level in weights]

        return by_kernel
    filled = F.pad(regions, (0, 0, 0, 0, 0, 1))

    def written_out(places: Int64[Tensor, " places"]) -> _Weighed:
        block_NRGG = _numbers(filled[places], pooling).unflatten(0, (-1, rows))
        weights = [of_level.flatten(2).to(dtype) for of_level in _at_levels(block_NRGG, sides, pooling)]
        return [(of_level, of_level.sum(2, keepdim=True, dtype=torch.float32)) for of_level in weights]

    return written_out


def _numbers(regions: Tensor, pooling: Pooling) -> Float[Tensor, "r g g"]:
    """Regions as numbers: half precision, where an accelerator only counts their cells, which are not too many."""
    counts = regions.is_cuda and regions.dtype == torch.bool and pooling == "area"
    return regions.half() if counts and regions.shape[-1] <= _MOST_CELLS else regions.float()


def _positions(level: Float[Tensor, "b c s s"]) -> Tensor:
    """One row a position, `_COLUMNS` numbers at least; no copy where channels are last in memory."""
    rows = level.permute(0, 2, 3, 1).flatten(1, 2)
    rows = (rows if rows.is_cuda and rows.dtype == torch.bfloat16 else rows.float()).contiguous()
    return rows if rows.shape[2] >= _COLUMNS else F.pad(rows, (0, _COLUMNS - rows.shape[2]))


def _means(
    weights: Float[Tensor, "blocks rows positions"],
    total: Float[Tensor, "blocks rows 1"],
    positions: Float[Tensor, "blocks positions columns"],
) -> Float[Tensor, "blocks rows columns"]:
    """The positions' weighted means; 0 where all weights are 0."""
    weights, total = weights.to(positions.dtype), total.clamp_min(torch.finfo(torch.float32).tiny)
    if positions.dtype == torch.float32:
        return torch.bmm(weights, positions).div_(total)
    return torch.bmm(weights, positions, out_dtype=torch.float32).div_(total)


def _at_levels(regions: Float[Tensor, "blocks rows g g"], sides: Sequence[int], pooling: Pooling) -> list[Tensor]:
    """The regions' weights at grids of these sides, not yet divided by their sums."""
    if pooling == "bilinear":
        return [_interpolated(regions, side) for side in sides]
    by_side = {regions.shape[-1]: regions}
    for side in sorted(set(sides), reverse=True):
        by_side[side] = _resized_by_area(by_side, side, regions)
    return [by_side[side] for side in sides]


def _interpolated(regions: Float[Tensor, "blocks rows g g"], side: int) -> Float[Tensor, "blocks rows s s"]:
    resized = F.interpolate(regions, size=(side, side), mode="bilinear")
    # What rounding leaves of a region that misses all positions is no region.
    return resized * (resized.amax((2, 3), keepdim=True) > _NOTHING)


def _resized_by_area(by_side: dict[int, Tensor], side: int, regions: Tensor) -> Tensor:
    """Regions on a grid of another side: their sum stays, each cell's share going where its area lies."""
    if side in by_side:
        return by_side[side]
    if 2 * side in by_side or 4 * side in by_side:
        return _halved(_resized_by_area(by_side, 2 * side, regions))
    shares = _area_shares(regions.shape[-1], side, regions.device)
    return _across(_across(regions, shares).transpose(2, 3), shares).transpose(2, 3)


def _across(regions: Float[Tensor, "n r g g2"], shares: Float[Tensor, "t g2"]) -> Float[Tensor, "n r g t"]:
    """The last axis resized: one product a block, of as many rows in every block."""
    lines = torch.bmm(regions.float().flatten(1, 2), shares.T.expand(len(regions), -1, -1))
    return lines.unflatten(1, regions.shape[1:3])


def _halved(regions: Float[Tensor, "n r g g"]) -> Float[Tensor, "n r h h"]:
    """2 × 2 cells become their sum. Adding slices is ten times faster than average pooling on a CPU."""
    rows = regions[:, :, ::2] + regions[:, :, 1::2]
    return rows[..., ::2] + rows[..., 1::2]


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
