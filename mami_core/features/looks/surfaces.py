"""Edges, lines, textures, plain areas and backgrounds.

Axes: H × H pixels, G × G cells, T turns.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mami_core.features.looks.grid import GRID, Turn, around, blurred, lengths, pooled, slopes

SURFACES = (
    "horizontal edges",
    "vertical edges",
    "diagonal edges rising to the right",
    "diagonal edges falling to the right",
    "edges brighter above",
    "edges brighter below",
    "edges brighter on the left",
    "edges brighter on the right",
    "horizontal lines",
    "vertical lines",
    "diagonal lines rising to the right",
    "diagonal lines falling to the right",
    "fine textures",
    "coarse textures",
    "faint textures",
    "smooth areas",
    "soft shading",
    "bright areas",
    "dark areas",
    "white backgrounds",
    "stripes",
    "outlines on white backgrounds",
    "outlines on black backgrounds",
)
"""What `surface_cells` tells."""

_STRIPED = 0.55
"""Share of the cells around that hold lines of one orientation where there are stripes."""
_ROUGH, _PLAIN, _EVERYWHERE, _MOSTLY = 0.03, 0.02, 0.7, 0.55
"""How strong a gradient is in a rough cell, and at most in a plain one; share of the cells around a texture that are
rough, and that are texture themselves: the parts of a thing are no texture, however rough."""
_ONE_WAY, _FINE = 0.45, 0.55
"""How much of a texture's gradients agree on one orientation, at most; how much of them is left without what is
blurred, in a fine one."""
_FAINT = (0.01, 0.03)
"""Between which gradients a texture is faint."""
_TURNS = 6
"""Orientations of stripes."""
_NO_TURN = 1e-12
"""Gradients that agree on nothing have no orientation."""


def surface_cells(grey: Float[Tensor, "b 1 h h"]) -> dict[str, Bool[Tensor, "b 1 g g"]]:
    """Where each of `SURFACES` is.

    Edges and lines are cells whose gradients (structure tensor; Bigun and Granlund, 1987) agree on one orientation. At
    an edge they also agree on one direction; at the two sides of a line they are opposite.
    """
    down, across = slopes(grey)
    fine = (grey - blurred(grey)).square()
    cells = pooled(torch.cat([across * across, down * down, across * down, down, across, grey, fine], 1), GRID)
    means = blurred(cells)
    xx, yy, xy, downward, rightward, light, _ = means.split(1, 1)
    energy = (xx + yy).sqrt()
    agreed = _agreed(xx, yy, xy)
    one_way = agreed / (xx + yy + 1e-6)
    one_sided = lengths(rightward, downward) / (energy + 1e-6)
    turn = Turn((xx - yy) / agreed.clamp(min=_NO_TURN), 2 * xy / agreed.clamp(min=_NO_TURN))  # upright: 0
    clear = (energy > 0.035) & (one_way > 0.6)
    edge, line = clear & (one_sided > 0.35), clear & (one_sided <= 0.25)
    lying, upright = turn.off(70.0), ~turn.off(20.0)
    slanted = turn.off(27.0) & ~turn.off(63.0)
    rising, falling = slanted & (xy > 0), slanted & (xy < 0)
    faint = (energy > _FAINT[0]) & (energy < _FAINT[1]) & (one_way < 0.5)
    smooth = energy < 0.008
    white, black = smooth & (light > 0.93), smooth & (light < 0.07)
    outlined = energy > 0.02
    textured, is_fine = _textures(cells, means)
    return {
        "horizontal edges": edge & lying,
        "vertical edges": edge & upright,
        "diagonal edges rising to the right": edge & rising,
        "diagonal edges falling to the right": edge & falling,
        "edges brighter above": edge & lying & (downward < 0),
        "edges brighter below": edge & lying & (downward > 0),
        "edges brighter on the left": edge & upright & (rightward < 0),
        "edges brighter on the right": edge & upright & (rightward > 0),
        "horizontal lines": line & turn.off(68.0),
        "vertical lines": line & ~turn.off(22.0),
        "diagonal lines rising to the right": line & rising,
        "diagonal lines falling to the right": line & falling,
        "fine textures": textured & is_fine,
        "coarse textures": textured & ~is_fine,
        "faint textures": faint & (around(faint) > _MOSTLY),
        "smooth areas": smooth,
        "soft shading": (energy > 0.003) & (energy < 0.02) & (one_sided > 0.85),
        "bright areas": light > 0.8,
        "dark areas": light < 0.16,
        "white backgrounds": white,
        "stripes": _striped(line, turn),
        "outlines on white backgrounds": _near(white) & ~white & outlined,
        "outlines on black backgrounds": _near(black) & ~black & outlined,
    }


def _agreed(
    xx: Float[Tensor, "b 1 g g"], yy: Float[Tensor, "b 1 g g"], xy: Float[Tensor, "b 1 g g"]
) -> Float[Tensor, "b 1 g g"]:
    """How far the structure tensor's eigenvalues are apart: how much of the gradients is of one orientation."""
    return ((xx - yy).square() + 4 * xy.square()).sqrt()


def _textures(
    cells: Float[Tensor, "b 7 g g"], means: Float[Tensor, "b 7 g g"]
) -> tuple[Bool[Tensor, "b 1 g g"], Bool[Tensor, "b 1 g g"]]:
    """Where a texture is, wide and without a direction, and where textures are fine."""
    own = (cells[:, :1] + cells[:, 1:2]).sqrt()
    xx, yy, xy, _, _, _, fine = around(means).split(1, 1)
    rough = blurred(around(own > _ROUGH)) > _EVERYWHERE
    textured = rough & (_agreed(xx, yy, xy) < _ONE_WAY * (xx + yy)) & (own > _PLAIN)
    textured &= around(around(textured)) > _MOSTLY
    return textured, fine.sqrt() > _FINE * (xx + yy).sqrt()


def _striped(line: Bool[Tensor, "b 1 g g"], turn: Turn) -> Bool[Tensor, "b 1 g g"]:
    along_BTGG = line & turn.near(_TURNS)
    return (along_BTGG & (around(along_BTGG) > _STRIPED)).any(1, keepdim=True)


def _near(cells: Bool[Tensor, "b 1 g g"]) -> Bool[Tensor, "b 1 g g"]:
    """Cells that have more than one of these among their neighbours."""
    return blurred(cells.float()) > 0.15
