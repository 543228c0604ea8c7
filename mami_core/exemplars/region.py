"""Where in an image a neuron is active: its activation map and threshold, as a mask on a finer grid.

Axes: P pairs of neuron and image.
"""

import functools

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, UInt8
from torch import Tensor

from mami_core import kernels

REGIONS_VERSION = 2
"""Changes with what any region is."""

_BLOCK = 64  # maps at a time on a CPU: their enlargement stays in its cache


def regions(
    maps: Float[Tensor, "pairs height width"], thresholds: Float[Tensor, " pairs"], size: int
) -> Bool[Tensor, "pairs {size} {size}"]:
    """The positions of the enlarged maps above their threshold, and always the peak.

    So a neuron that is active anywhere has a region, also where its threshold is above its peak; one that is nowhere
    above zero has none. A vector's region is the whole image: pass it as maps of 1 × 1.
    """
    if kernels.serve(maps) and len(maps):
        maps = _not_too_fine(maps.float().clamp(min=0), size)
        taps = [_taps(length, size, maps.device) for length in maps.shape[1:]]
        return kernels.draw(maps, thresholds, *taps, size=size)
    block = max(1, len(maps)) if maps.is_cuda else _BLOCK
    parts = [
        _regions(some, above, size) for some, above in zip(maps.split(block), thresholds.split(block), strict=True)
    ]
    return torch.cat(parts)


def _regions(maps: Tensor, thresholds: Tensor, size: int) -> Tensor:
    up = enlarge(maps.float().clamp(min=0), size)  # below zero is inactive, and must not drag its neighbours down
    active = (maps > 0).any(2).any(1)
    above = up > thresholds.clamp(min=0)[:, None, None]
    return (above | (up >= up.amax((1, 2), keepdim=True))) & active[:, None, None]


def milan_regions(
    maps: Float[Tensor, "pairs height width"], thresholds: Float[Tensor, " pairs"], size: int
) -> Bool[Tensor, "pairs {size} {size}"]:
    """The regions of MILAN, bit for bit (Hernandez et al., 2022, arXiv 2201.11114; NetDissect's enlargement).

    Strictly above the threshold, and nowhere else: not where the peak is, if all is below. Negative activations drag
    their neighbours down, and beyond the border there are zeros, which damp what is near it.
    """
    block = max(1, len(maps)) if maps.is_cuda else _BLOCK
    parts = [
        _enlarge_with_zeros(some.float(), size) > above[:, None, None]
        for some, above in zip(maps.split(block), thresholds.split(block), strict=True)
    ]
    return torch.cat(parts)


def _enlarge_with_zeros(maps: Float32[Tensor, "pairs height width"], size: int) -> Tensor:
    """The position x of `size` lies at x/s − (s − 1)/2s of the map, s being size / length."""
    down, across = (
        (torch.arange(size, dtype=torch.float32, device=maps.device) - (size / length / 2 - 0.5))
        * (2 / (size / length * max(1, length - 1)))
        - 1
        for length in maps.shape[1:]
    )
    grid = torch.stack(torch.meshgrid(across, down, indexing="xy"), 2)
    # One picture with the maps as its channels: the weights of a position are computed once.
    return F.grid_sample(maps[None], grid[None], mode="bilinear", padding_mode="zeros", align_corners=True)[0]


def pack(regions: Bool[Tensor, "pairs size size"]) -> UInt8[Tensor, "pairs bytes"]:
    """One bit a cell, as `contracts.RegionsRow` says; the number of cells must be a multiple of 8."""
    bits = regions.flatten(1).unflatten(1, (-1, 8)).to(torch.uint8)
    return (bits << torch.arange(7, -1, -1, dtype=torch.uint8, device=bits.device)).sum(2, dtype=torch.uint8)


def enlarge(maps: Float32[Tensor, "pairs height width"], size: int) -> Float32[Tensor, "pairs {size} {size}"]:
    """Bilinear to `size` × `size`, the edge extended: nothing darkens at the border.

    The same as `F.interpolate(mode="bilinear", align_corners=False)`, in products and sums of single elements, so that
    the bits do not depend on how many maps there are. A map more than twice as fine as the result is first brought
    to it by the maximum, because bilinear would step over single cells, and so over peaks.
    """
    return _stretch(_stretch(_not_too_fine(maps, size), 2, size), 1, size)


def _not_too_fine(maps: Float32[Tensor, "pairs height width"], size: int) -> Float32[Tensor, "pairs _ _"]:
    if max(maps.shape[1:]) <= 2 * size:
        return maps
    return F.adaptive_max_pool2d(maps, [min(length, size) for length in maps.shape[1:]])


def _stretch(maps: Tensor, axis: int, size: int) -> Tensor:
    if maps.shape[axis] == size:
        return maps
    before, after, share = _taps(maps.shape[axis], size, maps.device)
    share = share.unsqueeze(-1) if axis == 1 else share
    first = maps.index_select(axis, before)
    # What is between two equal cells is as high, to the bit: a plateau is in the region of its peak as a whole.
    return maps.index_select(axis, after).sub_(first).mul_(share).add_(first)


@functools.lru_cache(maxsize=64)
def _taps(length: int, size: int, device: torch.device) -> kernels.Taps:
    """The two cells that each new position lies between, and the share of the second."""
    centres = (torch.arange(size, dtype=torch.float64, device=device) + 0.5) * (length / size) - 0.5
    position = centres.clamp(0, length - 1)  # the edge is extended
    before = position.long()
    after = (before + 1).clamp(max=length - 1)
    return before, after, (position - before).float()
