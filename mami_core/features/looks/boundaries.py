"""Where things end: the tops, undersides and sides of what stands before a plain background.

Axes: H × H pixels, G × G cells.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mami_core.features.looks.grid import GRID, around, blurred, lengths, pooled, slopes

SIDES = ("tops of things", "undersides of things", "left sides of things", "right sides of things")
"""Where the background lies above, below, on the left and on the right."""
BOUNDARIES = (*SIDES, "outlines of things")
"""What `boundary_cells` tells."""

_PLAIN, _AMONG = 0.015, 0.55
"""The steepest that colours of a plain cell are, in their range a pixel; share of plain cells around one of a
background."""
_NEAR, _FAR = 0.25, 0.75
"""Share of background around an outline."""
_STEEP, _FACING = 0.06, 0.6
"""How fast that share grows, a cell, at a thing's side; how much of its growth is towards the side."""


def boundary_cells(colours: Float[Tensor, "b 3 h h"]) -> dict[str, Bool[Tensor, "b 1 g g"]]:
    """Where each of `BOUNDARIES` is in a picture whose channels are from 0 to 1."""
    down, across = slopes(colours)
    red, green, blue = (down.square() + across.square()).split(1, 1)
    steepness = pooled((red + green + blue) / 3, GRID).sqrt()
    plain = steepness < _PLAIN
    background = plain & (around(plain) > _AMONG)
    share = blurred(around(background))
    outline = (share > _NEAR) & (share < _FAR)
    down, across = slopes(share)
    steep = lengths(down, across)
    side = outline & (steep > _STEEP)
    growth = torch.cat([-down, down, -across, across], 1)
    sides = side & (growth > _FACING * steep)
    return dict(zip(SIDES, sides.split(1, 1), strict=True)) | {"outlines of things": outline}
