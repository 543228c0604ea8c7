"""Edges, lines, textures, plain areas and backgrounds.

Axes: H × H pixels, G × G cells, T turns.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mami_core.features.looks.grid import GRID, Turn, blurred, lengths, pooled, slopes

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
    means = blurred(pooled(torch.cat([across * across, down * down, across * down, down, across, grey, fine], 1), GRID))
    xx, yy, xy, downward, rightward, light, fine = means.split(1, 1)
    energy = (xx + yy).sqrt()
    agreed = ((xx - yy).square() + 4 * xy.square()).sqrt()
    one_way = agreed / (xx + yy + 1e-6)
    one_sided = lengths(rightward, downward) / (energy + 1e-6)
    turn = Turn((xx - yy) / agreed.clamp(min=_NO_TURN), 2 * xy / agreed.clamp(min=_NO_TURN))  # upright: 0
    clear = (energy > 0.035) & (one_way > 0.6)
    edge, line = clear & (one_sided > 0.35), clear & (one_sided <= 0.25)
    lying, upright = turn.off(70.0), ~turn.off(20.0)
    slanted = turn.off(27.0) & ~turn.off(63.0)
    rising, falling = slanted & (xy > 0), slanted & (xy < 0)
    disordered = one_way < 0.5
    textured, is_fine = (energy > 0.045) & disordered, fine.sqrt() > 0.6 * energy
    smooth = energy < 0.008
    white, black = smooth & (light > 0.93), smooth & (light < 0.07)
    outlined = energy > 0.02
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
        "faint textures": (energy > 0.01) & (energy < 0.03) & disordered,
        "smooth areas": smooth,
        "soft shading": (energy > 0.003) & (energy < 0.02) & (one_sided > 0.85),
        "bright areas": light > 0.8,
        "dark areas": light < 0.16,
        "white backgrounds": white,
        "stripes": _striped(line, turn),
        "outlines on white backgrounds": _near(white) & ~white & outlined,
        "outlines on black backgrounds": _near(black) & ~black & outlined,
    }


def _striped(line: Bool[Tensor, "b 1 g g"], turn: Turn) -> Bool[Tensor, "b 1 g g"]:
    along_BTGG = line & turn.near(_TURNS)
    return (along_BTGG & (blurred(blurred(along_BTGG.float())) > _STRIPED)).any(1, keepdim=True)


def _near(cells: Bool[Tensor, "b 1 g g"]) -> Bool[Tensor, "b 1 g g"]:
    """Cells that have more than one of these among their neighbours."""
    return blurred(cells.float()) > 0.15
