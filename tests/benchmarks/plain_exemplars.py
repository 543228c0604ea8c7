"""Exemplars the plain way, as MILAN goes about it: layer by layer, two passes over all images for each.

The first pass finds strongest images and quantiles, the second enlarges the maps of the winners, one neuron and image
at a time. What a region is, is defined as in `mami_core`, so that results can be compared.
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


def first_pass(
    subject: Subject, layer: str, batches: Sequence[ImageBatch], k: int, quantile: float, *, exact: bool
) -> PlainExemplars:
    """Strongest images and quantile of every unit: exact, with all activations in memory, or by a sketch."""
    peaks, kept, sketch = [], [], Sketch()
    for batch in batches:
        maps = activations(subject, layer, batch.pixels[0])
        peaks.append(maps.amax((2, 3)))
        values = maps.transpose(0, 1).flatten(1)
        if exact:
            kept.append(values)
        else:
            sketch.add(values)
    strongest = torch.cat(peaks).T.topk(k, dim=1)
    thresholds = exact_quantile(torch.cat(kept, 1), quantile) if exact else sketch.quantile(quantile)
    return PlainExemplars(strongest.indices, strongest.values, thresholds.clamp(min=0))


def exact_quantile(values: Tensor, quantile: float) -> Tensor:
    """Of every row: the smallest value that a share `quantile` of them does not exceed."""
    rank = math.ceil(quantile * values.shape[1])
    return torch.stack([unit.kthvalue(rank).values for unit in values])


class Sketch:
    """Quantiles in bounded memory, the usual way: full buffers are sorted, and every other value moves on.

    A value in level n stands for 2^n values. MILAN's sketch works so (Karnin et al., 2016, arXiv 1603.05346, is the
    theory), with buffers of a few thousand values a unit.
    """

    WIDTH = 4096

    def __init__(self) -> None:
        self.levels: list[Tensor] = []
        self.generator = torch.Generator().manual_seed(0)

    def add(self, values: Tensor, level: int = 0) -> None:
        """More values of every unit, [units, any number]."""
        if level == len(self.levels):
            self.levels.append(values[:, :0])
        for some in values.split(self.WIDTH, 1):
            held = torch.cat([self.levels[level], some], 1)
            self.levels[level] = held
            if held.shape[1] >= self.WIDTH:
                self.levels[level] = held[:, :0]
                first = int(torch.randint(2, (), generator=self.generator))
                self.add(held.sort(1).values[:, first::2], level + 1)

    def quantile(self, quantile: float) -> Tensor:
        """Of every unit."""
        values, order = torch.cat(self.levels, 1).sort(1)
        weights = torch.cat([torch.full((each.shape[1],), 2.0**level) for level, each in enumerate(self.levels)])
        running = weights[order].cumsum(1)
        place = torch.searchsorted(running, running[:, -1:] * quantile).clamp(max=values.shape[1] - 1)
        return values.gather(1, place)[:, 0]


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
