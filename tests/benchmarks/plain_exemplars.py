"""Exemplars the plain way, as MILAN goes about it: layer by layer, two passes over all images for each.

The first pass keeps every activation of the layer for exact quantiles, the second enlarges the maps of the winners, one
neuron and image at a time. What a region is, is defined as in `mami_core`, so that results can be compared.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mami_core.images import ImageBatch
from mami_core.subjects import Subject


@dataclass(frozen=True, slots=True)
class PlainExemplars:
    """One layer's."""

    images: Tensor
    """[units, k]"""
    activations: Tensor
    """[units, k]"""
    thresholds: Tensor
    """[units]"""


@torch.inference_mode()
def activations(subject: Subject, layer: str, pixels: Tensor) -> Tensor:
    """One layer's maps of a batch."""
    kept = []
    handle = subject.network.get_submodule(layer).register_forward_hook(lambda _m, _i, output: kept.append(output))
    subject.network(subject.normalise(pixels))
    handle.remove()
    return kept[0]


def first_pass(subject: Subject, layer: str, batches: Sequence[ImageBatch], k: int, quantile: float) -> PlainExemplars:
    """Strongest images and exact quantile of every unit."""
    maps = torch.cat([activations(subject, layer, batch.pixels[0]) for batch in batches])
    strongest = maps.amax((2, 3)).T.topk(k, dim=1)
    values = maps.transpose(0, 1).flatten(1)
    rank = math.ceil(quantile * values.shape[1])
    thresholds = torch.stack([unit.kthvalue(rank).values for unit in values])
    return PlainExemplars(strongest.indices, strongest.values, thresholds.clamp(min=0))


def second_pass(
    subject: Subject,
    layer: str,
    batches: Sequence[ImageBatch],
    found: PlainExemplars,
    units: Sequence[int],
    size: int,
) -> dict[tuple[int, int], Tensor]:
    """The region of each of these units in each of its exemplars, by unit and image."""
    regions = {}
    for batch in batches:
        maps = activations(subject, layer, batch.pixels[0])
        for row, image in enumerate(batch.images.tolist()):
            for unit in units:
                if image in found.images[unit]:
                    regions[unit, image] = region(maps[row, unit], found.thresholds[unit], size)
    return regions


def region(grid: Tensor, threshold: Tensor, size: int) -> Tensor:
    """Where one map, enlarged, is above the threshold; at least its peak."""
    enlarged = F.interpolate(grid.clamp(min=0)[None, None], size=(size, size), mode="bilinear")[0, 0]
    return ((enlarged > threshold) | (enlarged >= enlarged.max())) & (grid > 0).any()
