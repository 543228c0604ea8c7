"""Exemplars as people see them: the region as it is and outlined, the rest faded to grey.

A region is shown as it is, to its last cell: an edge drawn inside would hide a thin one. The rest fades to grey and not
to black: beside black one sees what is bright in a region and takes that for all of it.
"""

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

EDGE = (255, 212, 0)
"""Yellow: rare in photographs, and seen on dark and on light."""
_GREY, _LEFT = 128, 0.35
"""What the rest fades to, and how much of it is left."""


def outlined(
    photograph: UInt8[np.ndarray, "side side 3"], region: Bool[np.ndarray, "cells cells"]
) -> UInt8[np.ndarray, "side side 3"]:
    """The square that the subject saw, faded outside the region, around which an edge is drawn.

    A region that is the whole picture or none of it leaves it as it is.
    """
    if region.all() or not region.any():
        return photograph
    side = len(photograph)
    cells = Image.fromarray(region.astype(np.uint8) * 255)
    inside = np.asarray(cells.resize((side, side), Image.Resampling.BILINEAR)) > 127
    around = inside
    for _ in range(max(1, round(side / 96))):
        around = _widened(around)
    faded = _GREY + _LEFT * (photograph.astype(np.float32) - _GREY)
    drawn = np.where(inside[..., None], photograph, faded.astype(np.uint8))
    drawn[around & ~inside] = EDGE
    return drawn


def _widened(inside: Bool[np.ndarray, "side side"]) -> Bool[np.ndarray, "side side"]:
    """With the pixels that touch an inner one."""
    wide = np.pad(inside, 1)
    return inside | wide[:-2, 1:-1] | wide[2:, 1:-1] | wide[1:-1, :-2] | wide[1:-1, 2:]
