"""Feature vectors in half precision, also those whose numbers are beyond it.

float16 ends at 65,504, and the stages of a network without normalisation go beyond. A vector that does is divided by
the power of two that brings it back, which costs no digit; every other vector is stored as it is.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Float16, Int8
from torch import Tensor

from mami_core.errors import ImageError
from mami_core.features.encoder import Encoder

_LARGEST = torch.finfo(torch.float16).max
_ENDS_BELOW = 15
"""A scaled vector's largest number is below 2^15, so that rounding cannot carry it over the end."""
_NOT_FINITE = -128
"""Stands for the exponent of a vector that holds anything but numbers."""


def to_halves(
    vectors: Float[Tensor, "rows features"],
) -> tuple[Float16[Tensor, "rows features"], Int8[Tensor, " rows"]]:
    """The vectors as float16 numbers, and the power of two that each is to be multiplied by: 0 for nearly all.

    Numbers that are not finite stay so: `check_finite` finds them.
    """
    peaks = vectors.abs().amax(1)
    finite = peaks.isfinite()
    exponents = (torch.frexp(peaks).exponent - _ENDS_BELOW).where((peaks > _LARGEST) & finite, 0)
    return torch.ldexp(vectors, -exponents[:, None]).half(), exponents.where(finite, _NOT_FINITE).to(torch.int8)


def from_halves(
    numbers: Float16[Tensor, "*rows features"], exponents: Int8[Tensor, "*rows"]
) -> Float[Tensor, "*rows features"]:
    """The vectors again: float16, as they are, where each fits, float32 where one does not."""
    return torch.ldexp(numbers.float(), exponents[..., None]) if exponents.any() else numbers


def check_finite(
    numbers: Float16[Tensor, "rows features"],
    exponents: Int8[Tensor, " rows"],
    encoder: Encoder,
    name: Callable[[int], str],
) -> None:
    """Refuse vectors that hold anything but numbers: no captioner can read them.

    Args:
        numbers: As `to_halves` gives them.
        exponents: Likewise.
        encoder: What made them.
        name: Which image a row shows.

    Raises:
        ImageError: naming the first such image, the encoder's layer and what it gives.
    """
    odd = exponents == _NOT_FINITE
    if not odd.any():
        return
    row = int(odd.nonzero()[0])
    column = int((~numbers[row].isfinite()).nonzero()[0])
    raise ImageError(
        f"{name(row)}: expected finite features, but the encoder {encoder.config.name} gives "
        f"{numbers[row, column].item()} in {encoder.level_of(column)}. Leave this image out, or use a captioner with "
        "another encoder."
    )
