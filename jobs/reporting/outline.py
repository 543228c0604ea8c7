"""A region's outline as text: what a browser draws sharply at any size, in fewer bytes than a picture of it."""

import numpy as np
from jaxtyping import Bool

Corner = tuple[int, int]


def outline(region: Bool[np.ndarray, "side side"]) -> str:
    """The closed lines around the region, holes included: "x y right down left …;…", in cells.

    Each begins at a corner and goes by turns along x and along y. Lines never cross: where two cells touch at a corner
    only, each has its own.
    """
    return ";".join(" ".join(map(str, _runs(loop))) for loop in _loops(region))


def _loops(region: Bool[np.ndarray, "side side"]) -> list[list[Corner]]:
    """The corners of every closed line, the region on its right; the line goes along x from the first one."""
    ways = _edges(region)
    loops = []
    while ways:
        start = min(ways)
        corner, before, loop = start, (0, 0), []
        while True:
            step = _turn(ways, corner, before)
            if step != before:
                loop.append(corner)
            corner, before = (corner[0] + step[0], corner[1] + step[1]), step
            if corner == start:
                break
        # Round a region the topmost corner on the left leads along x, round a hole down.
        loops.append(loop if loop[0][0] == loop[1][0] else [*loop[1:], loop[0]])
    return loops


def _edges(region: Bool[np.ndarray, "side side"]) -> dict[Corner, list[Corner]]:
    """From each corner, as (y, x), the steps along the region's edge that start there."""
    padded = np.pad(region, 1).astype(np.int8)
    ways: dict[Corner, list[Corner]] = {}

    def add(where: np.ndarray, start: Corner, step: Corner) -> None:
        for y, x in np.argwhere(where).tolist():
            ways.setdefault((y + start[0], x + start[1]), []).append(step)

    across = np.diff(padded, axis=0)[:, 1:-1]  # row y: the change from above line y to below it
    add(across > 0, (0, 0), (0, 1))
    add(across < 0, (0, 1), (0, -1))
    down = np.diff(padded, axis=1)[1:-1]
    add(down > 0, (1, 0), (-1, 0))
    add(down < 0, (0, 0), (1, 0))
    return ways


def _turn(ways: dict[Corner, list[Corner]], corner: Corner, before: Corner) -> Corner:
    """Takes the next step away from a corner: where two begin, the one to the right, which stays at the same cell."""
    steps = ways[corner]
    right = (before[1], -before[0])
    step = right if right in steps else steps[0]
    steps.remove(step)
    if not steps:
        del ways[corner]
    return step


def _runs(loop: list[Corner]) -> list[int]:
    """The first corner as x and y, then how far it is to each next one, along x and y by turns."""
    (y, x), turned = loop[0], [*loop[1:], loop[0]]
    runs = [(b[1] - a[1]) or (b[0] - a[0]) for a, b in zip(loop, turned, strict=True)]
    return [x, y, *runs]
