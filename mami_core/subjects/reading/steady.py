"""Whether a network gives the same for an image each time and beside any others."""

from collections.abc import Iterable

import torch
from torch import Tensor

from mami_core.subjects.reading.watch import Passage

_ROUNDING = {torch.float64: 1e-3, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 5e-2}
"""How far numbers may move with an image's place in a batch, as a share of the largest: sums in another order."""


def rounding_of(dtypes: Iterable[torch.dtype]) -> float:
    """How far numbers may move in a network whose tensors are of these."""
    return max((_ROUNDING.get(dtype, 5e-2) for dtype in dtypes), default=1e-3)


def unsteady(passage: Passage, rounding: float) -> str:
    """Why what passed is not always the same for an image; empty if it is."""
    if passage.again is None or _differ(passage.sketch, passage.again, rounding):
        return "it gives something else each time for the same image (dropout or noise that eval() does not turn off?)"
    if passage.shape and not passage.black_shape:
        return "whether it is called depends on what the image shows"
    if passage.black_shape != passage.shape:
        return f"its shape depends on what the image shows: {passage.shape} for noise, {passage.black_shape} for black"
    if passage.beside is not None and _differ(passage.sketch, passage.beside, rounding):
        return "what it gives for an image depends on the others of the batch (batch statistics, or a scale for all?)"
    return ""


def _differ(one: Tensor, other: Tensor, rounding: float) -> bool:
    if one.shape != other.shape:
        return True
    fine = one.isfinite() & other.isfinite()
    if not bool((one.isfinite() == other.isfinite()).all()):
        return True
    highest = one[fine].abs().max() if fine.any() else 0.0
    return bool(((one - other)[fine].abs() > rounding * highest).any())
