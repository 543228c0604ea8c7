"""Exemplars as people see them: the region outlined, the rest dimmed."""

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

EDGE = (255, 212, 0)
"""Yellow: rare in photographs, and seen on dark and on light."""
_SHADE = 0.5


def outlined(
    photograph: UInt8[np.ndarray, "side side 3"], region: Bool[np.ndarray, "cells cells"]
) -> UInt8[np.ndarray, "side side 3"]:
    """The square that the subject saw, dimmed outside the region, whose edge is drawn inside it.

    A region that is the whole picture or none of it leaves it as it is.
    """
    if region.all() or not region.any():
        return photograph
    side = len(photograph)
    cells = Image.fromarray(region.astype(np.uint8) * 255)
    inside = np.asarray(cells.resize((side, side), Image.Resampling.BILINEAR)) > 127
    core = inside
    for _ in range(max(1, round(side / 96))):
        core = _eroded(core)
    drawn = np.where(inside[..., None], photograph, (photograph * _SHADE).astype(np.uint8))
    drawn[inside & ~core] = EDGE
    return drawn


def _eroded(inside: Bool[np.ndarray, "side side"]) -> Bool[np.ndarray, "side side"]:
    """Without the cells that touch an outer one; beyond the picture counts as inside."""
    wide = np.pad(inside, 1, constant_values=True)
    return inside & wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]
