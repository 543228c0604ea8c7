"""How clearly the axes of a tensor follow the image, from how its places respond to stripes of it."""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mami_core.subjects.reading.probes import STRIPES, contrast
from mami_core.subjects.reading.watch import Passage

CLEAR, FINE, FAINT = 0.15, 0.05, 0.02
"""Contrasts of stripes that show an order by themselves, that finer ones must have, and that decide between two."""


def could_be_clearer(responses: Float[Tensor, "probes places"], score: float) -> bool:
    """Whether the responses to halves differ far more between places than the order that is taken for theirs tells."""
    whole, striped = responses[0], responses[1:]
    striped = striped / whole.clamp(min=1e-6 * float(whole.max()) + 1e-30)
    ordered = striped.sort(1).values
    half = ordered.shape[1] // 2
    low, high = ordered[:, :half].mean(1), ordered[:, -half:].mean(1)
    possible = float(((high - low) / (high + low).clamp(min=1e-30)).min())
    return possible > max(3 * score, CLEAR)


def order_score(passage: Passage, axis: int, patches: tuple[int, ...], grid: tuple[int, int]) -> tuple[float, float]:
    """The lowest contrast of the halves, and of finer stripes, when patches lie in the order of the grid's rows."""
    if axis not in passage.responses:
        return 0.0, 0.0
    index = torch.arange(len(patches))
    places = (index // grid[1], index % grid[1])
    halves, finer = [], []
    for side in (0, 1):
        if grid[side] > 1:
            half, *rest = contrasts(passage, axis, places[side], grid[side], side, patches)
            halves.append(half)
            finer += rest
    return min(halves, default=0.0), min(finer, default=1.0)


def contrasts(
    passage: Passage,
    axis: int,
    places: Int64[Tensor, " p"],
    length: int,
    side: int,
    patches: tuple[int, ...] | None = None,
) -> list[float]:
    """The contrast of each kind of stripes along one side of the image that is no finer than the cells there."""
    if axis not in passage.responses:
        return [0.0]
    whole, striped = passage.responses[axis][0], passage.responses[axis][1:]
    striped = striped / whole.clamp(min=1e-6 * float(whole.max()) + 1e-30)  # some units respond more than others anyway
    striped = striped if patches is None else striped[:, list(patches)]
    return [
        contrast(response, stripes.cover(length)[places])
        for stripes, response in zip(STRIPES, striped, strict=True)
        if stripes.axis == side and (stripes.parts <= length or stripes.parts == 2)
    ]


def grids(count: int, aspect: float) -> list[tuple[int, int]]:
    """Heights and widths of `count` cells, of about the input's shape."""
    pairs = [(h, count // h) for h in range(1, count + 1) if count % h == 0]
    return [(h, w) for h, w in pairs if count > 1 and abs(math.log(h / w / aspect)) < math.log(2)]
