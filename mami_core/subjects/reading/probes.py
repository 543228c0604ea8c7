"""What is shown to a network to learn how its modules' tensors are to be read: noise, black, and noise in stripes.

An image that differs from another in known stripes tells where positions lie: they differ there, units differ anywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Stripes:
    """Every other one of `parts` equal stripes of an image: of its rows (axis 0) or its columns (axis 1)."""

    axis: int
    parts: int

    def cover(self, length: int) -> Bool[Tensor, " {length}"]:
        """Which of `length` equal cells along the axis have their middle in a stripe."""
        middles = (torch.arange(length) + 0.5) / length
        return (middles * self.parts).floor() % 2 == 0

    def over(self, height: int, width: int) -> Bool[Tensor, "{height} {width}"]:
        """Which cells of an image's grid have their middle in a stripe."""
        covered = self.cover((height, width)[self.axis])
        return (covered[:, None] if self.axis == 0 else covered).expand(height, width)


STRIPES = tuple(Stripes(axis, parts) for axis in (0, 1) for parts in (2, 4, 8))

NOISE, BLACK, OTHER, STRIPED = 0, 1, 2, slice(3, 3 + len(STRIPES))
"""Rows of `probe_images`."""


def probe_images(shape: tuple[int, ...]) -> Float[Tensor, "probes ..."]:
    """The probes, as normalised inputs of `shape` without the batch: [channels, height, width].

    Inputs of another shape, such as latents, have no stripes: rows `NOISE`, `BLACK` and `OTHER` only.
    """
    noise, *others = striped_images(shape, STRIPES if len(shape) == 3 else ())
    return torch.stack([noise, torch.zeros(shape), *others])


def striped_images(shape: tuple[int, ...], stripes: Sequence[Stripes], *, seed: int = 0) -> Float[Tensor, "images ..."]:
    """Noise, other noise, and the first in stripes of the other."""
    noise, other = torch.randn(2, *shape, generator=torch.Generator().manual_seed(seed))
    striped = [torch.where(each.over(*shape[1:]), other, noise) for each in stripes]
    return torch.stack([noise, other, *striped])


def contrast(response: Float[Tensor, " positions"], covered: Bool[Tensor, " positions"]) -> float:
    """How much more the covered positions respond than the others, from -1 to 1; 0 where only one kind is there."""
    if covered.all() or not covered.any():
        return 0.0
    inside, outside = response[covered].mean(), response[~covered].mean()
    total = inside + outside
    return float((inside - outside) / total) if total > 0 else 0.0
