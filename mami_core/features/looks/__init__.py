"""Words that need no annotation: colours, brightness, edges, textures and shapes, read off a picture's pixels.

What this tells of a picture are maps, as a network's layers are: an encoder can have them as a level, and photographs
that teach a captioner are described by them.

Axes: C colours, L looks, G × G cells, F × F small ones.
"""

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from mami_core.features.looks.boundaries import BOUNDARIES, SIDES, boundary_cells
from mami_core.features.looks.colours import COLOURS, TONES, colours_of_fours, saturation_and_value
from mami_core.features.looks.grid import FINE, GRID, blurred, in_fine_cells, pooled, sums_of_four
from mami_core.features.looks.shapes import COLOURED, COLOURED_SHAPES, SHAPES, shape_cells
from mami_core.features.looks.surfaces import SURFACES, surface_cells

__all__ = [
    "BOUNDARIES",
    "COLOURED",
    "COLOURS",
    "FILLING",
    "FINE",
    "GRID",
    "LOOKS",
    "LOOKS_VERSION",
    "NUM_LOOKS",
    "SIDE",
    "SIDES",
    "TONES",
    "look_maps",
]

_TINTS = ("vivid colours", "pale colours", "many colours")
LOOKS = (*SURFACES, *_TINTS, *SHAPES, *BOUNDARIES, *COLOURED_SHAPES)
FILLING = ("grey", "fine textures", "coarse textures", "faint textures")
"""Of the colours and looks those that are true of a region by the share that they cover, half being half true: between
black and white there is always some grey, and at the edges of things there is texture."""
LOOKS_VERSION = 2
"""Changes with what any of them means."""
SIDE = 8 * GRID
"""Of the pictures that looks are read off, in pixels: what is a fine texture in one size is a rough one in another."""
NUM_LOOKS = len(COLOURS) + len(LOOKS)
"""Maps of `look_maps`."""

_AT_ONCE_CPU = 8
"""Pictures that a CPU works on at once: what is made of them on the way stays in its cache."""
_MANY, _SOME = 4, 0.08
"""How many colours are many, and the share of the cells around that each must have."""


@torch.inference_mode()
def look_maps(pixels: UInt8[Tensor, "b 3 256 256"]) -> Bool[Tensor, "b colours_and_looks f f"]:
    """Where each of `COLOURS` is the commonest one, then where each of `LOOKS` is true, in small cells.

    A picture's maps are the same to the bit, whatever other pictures there are.
    """
    together = len(pixels) if pixels.is_cuda else _AT_ONCE_CPU
    return torch.cat([_look_maps(some) for some in pixels.split(together)])


def _look_maps(pixels: UInt8[Tensor, "b 3 256 256"]) -> Bool[Tensor, "b colours_and_looks f f"]:
    counts = colours_of_fours(pixels)
    of_small = sums_of_four(counts)
    shares = pooled(of_small.float(), GRID) / 16
    small = pooled(pixels.float(), SIDE // 2) / 255
    red, green, blue = small.split(1, 1)
    grey = 0.299 * red + 0.587 * green + 0.114 * blue
    found = surface_cells(grey) | _tints(pixels, shares) | shape_cells(grey, counts) | boundary_cells(small)
    in_cells = [name for name in LOOKS if found[name].shape[-1] == GRID]
    of_cells = in_fine_cells(torch.cat([found[name] for name in in_cells], 1))
    found |= dict(zip(in_cells, of_cells.split(1, 1), strict=True))
    return torch.cat([_commonest(of_small), *(found[name] for name in LOOKS)], 1)


def _commonest(counts: UInt8[Tensor, "b c f f"]) -> Bool[Tensor, "b c f f"]:
    """One colour in each cell: of several the first."""
    first = counts.argmax(1, keepdim=True)
    return torch.zeros_like(counts, dtype=torch.bool).scatter(1, first, True)


def _tints(
    pixels: UInt8[Tensor, "b 3 256 256"], shares: Float[Tensor, "b c g g"]
) -> dict[str, Bool[Tensor, "b 1 g g"]]:
    """What colours are like."""
    saturation, value = (pooled(of, GRID)[:, None] for of in saturation_and_value(pixels))
    return {
        "vivid colours": (saturation > 0.65) & (value > 0.45),
        "pale colours": (saturation > 0.1) & (saturation < 0.3) & (value > 0.75),
        "many colours": (blurred(shares[:, len(TONES) :]) > _SOME).sum(1, keepdim=True) >= _MANY,
    }
