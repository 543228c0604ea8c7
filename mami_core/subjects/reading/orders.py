"""Tokens that lie otherwise than row by row, such as in the order of windows: where each is, read off fine stripes.

A token answers to those stripes of the image that lie where it does. Coarse stripes tell halves, each finer ones which
part of that; together they tell its row and its column.
"""

from collections.abc import Sequence as Several

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from mami_core.subjects.reading.probes import Stripes, striped_images
from mami_core.subjects.reading.watch import Look, Passage, Place

DRAWS = 2
"""Of noise in each half: a few channels answer too differently to one."""

_CLEAR_SHARE = 0.8
"""Of the tokens that must have places of their own by themselves."""
_MOST_TOKENS = 4096
_SHARPNESS, _ROUNDS = 0.3, 60

_FINEST = 3
"""Pixels of the finest stripes."""


def fine_stripes(shape: tuple[int, ...]) -> tuple[Stripes, ...]:
    """Halves, quarters and so on of an image's rows and columns."""
    return tuple(
        Stripes(axis, 2**step)
        for axis in (0, 1)
        for step in range(1, shape[1 + axis].bit_length())
        if 2**step * _FINEST <= shape[1 + axis]
    )


def fine_images(shape: tuple[int, ...], draw: int) -> Float[Tensor, "images ..."]:
    """Noise, other noise, and the one in stripes of the other; all others for each draw."""
    return striped_images(shape, fine_stripes(shape), seed=10 + draw)


def answers_noted(passages: dict[Place, Passage], num_images: int, half: int) -> Look:
    """Adds how strongly each token answers to other noise, and to each of the fine stripes: sums of squares."""

    def look(place: Place, tensor: Tensor) -> None:
        passage = passages.get(place)
        if passage is None or passage.batch_axis is None or tensor.ndim != 3:
            return
        rows = passage.fold_away(tensor.detach().float()).movedim(passage.batch_axis, 0)
        if len(rows) != num_images:
            return
        change = (rows[1:] - rows[0]).square()  # [images, *axes without the batch]
        for other in range(2):
            axis, along = other + (other >= passage.batch_axis), change.mean(2 - other).cpu()
            of_axis = passage.answers.setdefault(axis, [])
            of_axis[half:] = [of_axis[half] + along if half < len(of_axis) else along]

    return look


def in_rows(
    halves: Several[Float[Tensor, "images tokens"]],
    patches: tuple[int, ...],
    grid: tuple[int, int],
    shape: tuple[int, ...],
) -> tuple[int, ...] | None:
    """The patches in the order of the grid's rows; None where their answers do not give each its own place.

    Two halves of the answers, to noise of their own, must say the same: one alone may confuse neighbours.
    """
    found = {_in_rows(answers, patches, grid, shape) for answers in halves}
    return found.pop() if len(found) == 1 else None


def _in_rows(
    answers: Float[Tensor, "images tokens"], patches: tuple[int, ...], grid: tuple[int, int], shape: tuple[int, ...]
) -> tuple[int, ...] | None:
    whole = answers[0].clamp(min=1e-9 * float(answers[0].max()) + 1e-30)
    shares = answers[1:] / whole  # of a token's answer, what comes from where the stripes lie
    distances = []
    for axis in (0, 1):
        length = grid[axis]
        chosen = [
            (number, stripes)
            for number, stripes in enumerate(fine_stripes(shape))
            if stripes.axis == axis and stripes.parts < max(2 * length, 3)
        ]
        found = torch.stack([shares[number, list(patches)] for number, _ in chosen])
        expected = torch.stack([_covered(stripes, shape[1 + axis], length) for _, stripes in chosen])
        distances.append(torch.cdist(_from_0_to_1(found).T.contiguous(), _from_0_to_1(expected).T.contiguous()))
    places = _one_to_one(*distances)
    return None if places is None else tuple(patches[index] for index in places.argsort().tolist())


def _one_to_one(
    to_rows: Float[Tensor, "tokens rows"], to_columns: Float[Tensor, "tokens columns"]
) -> Int64[Tensor, " tokens"] | None:
    """Each token's own place, the nearest to what its answers say where few of these are the same; else None.

    Where tokens compete for a place, all together decide: rows and columns of exp(−distance) are scaled to sum 1 in
    turn (Sinkhorn), until each token has one place and each place one token.
    """
    count = len(to_rows)
    nearest = to_rows.argmin(1) * to_columns.shape[1] + to_columns.argmin(1)
    distinct = len(nearest.unique())
    if distinct == count:
        return nearest
    if distinct < _CLEAR_SHARE * count or count > _MOST_TOKENS:
        return None
    distance = (to_rows.square()[:, :, None] + to_columns.square()[:, None, :]).flatten(1)
    scores = -distance / (_SHARPNESS * distance.min(1).values.mean() + 1e-9)
    for _ in range(_ROUNDS):
        scores = scores - scores.logsumexp(1, keepdim=True)
        scores = scores - scores.logsumexp(0, keepdim=True)
    places = scores.argmax(1)
    return places if len(places.unique()) == count else None


def _covered(stripes: Stripes, side: int, length: int) -> Float[Tensor, " length"]:
    """How much of each of `length` equal rows lies in stripes."""
    return functional.adaptive_avg_pool1d(stripes.cover(side).float()[None], length)[0]


def _from_0_to_1(rows: Float[Tensor, "stripes n"]) -> Float[Tensor, "stripes n"]:
    low, high = (rows.quantile(share, dim=1, keepdim=True) for share in (0.1, 0.9))
    return ((rows - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)
