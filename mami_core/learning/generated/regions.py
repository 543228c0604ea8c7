"""Where in a drawing a neuron is active."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageFilter

from mami_core.learning.generated.drawing import Drawing

Mask = Bool[np.ndarray, "size size"]


def region_of(drawing: Drawing, owners: Sequence[int], part: str | None) -> Mask:
    """What is seen of some things and grounds, or of one part of each."""
    if part is None:
        return np.isin(drawing.owner, list(owners))
    parts = [_part(drawing.owner == owner, part) for owner in owners]
    return np.logical_or.reduce(parts) if parts else np.zeros_like(drawing.owner, dtype=bool)


def as_a_network_sees(region: Mask, cells: int) -> Mask:
    """The region as it comes from an activation map of `cells` × `cells`: blurred, and cut at a threshold."""
    size = region.shape[0]
    coarse = _picture(region).resize((cells, cells), Image.Resampling.BOX)
    smooth = np.asarray(coarse.resize((size, size), Image.Resampling.BILINEAR))
    return smooth > 0.4 * max(int(smooth.max()), 1)


def _part(thing: Mask, part: str) -> Mask:
    if not thing.any():
        return thing
    size = thing.shape[0]
    if part == "edges":
        blurred = _blurred(thing, size // 50)
        return (blurred > 15) & (blurred < 240)
    if part == "surroundings":
        return (_blurred(thing, size // 14) > 0) & ~thing
    rows, columns = np.flatnonzero(thing.any(1)), np.flatnonzero(thing.any(0))
    down = (np.arange(size) - rows[0] + 0.5)[:, None] / len(rows)
    across = (np.arange(size) - columns[0] + 0.5)[None, :] / len(columns)
    inside = {
        "tops": down < 0.35,
        "bottoms": down > 0.65,
        "left sides": across < 0.35,
        "right sides": across > 0.65,
        "middles": (np.abs(down - 0.5) < 0.22) & (np.abs(across - 0.5) < 0.22),
    }
    return thing & inside[part]


def _blurred(mask: Mask, radius: int) -> UInt8[np.ndarray, "size size"]:
    return np.asarray(_picture(mask).filter(ImageFilter.BoxBlur(radius)))


def _picture(mask: Mask) -> Image.Image:
    return Image.fromarray(mask.astype(np.uint8) * 255)
