"""Feature vectors in half precision: what fits is kept as it is, what does not comes back all the same."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mami_core.features import from_halves, to_halves

NUMBERS = st.floats(-(2.0**127), 2.0**127, width=32)
LARGEST = float(torch.finfo(torch.float16).max)


@given(rows=st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), min_size=1))
def test_every_finite_vector_comes_back(rows: list[tuple[float, ...]]) -> None:
    vectors = torch.tensor(rows, dtype=torch.float32)
    numbers, exponents = to_halves(vectors)
    assert numbers.isfinite().all()
    found = from_halves(numbers, exponents).double()
    # Half a step of float16 relative to a number itself, and of its smallest ones relative to the largest.
    largest = vectors.abs().amax(1, keepdim=True).double()
    error = vectors.abs().double() * 2**-11 + 2**-25 * (largest / 2**14).clamp_min(1)
    assert ((found - vectors.double()).abs() <= error).all()


@given(rows=st.lists(st.tuples(*[st.floats(-LARGEST, LARGEST, width=32)] * 2), min_size=1))
def test_what_fits_is_not_touched(rows: list[tuple[float, ...]]) -> None:
    vectors = torch.tensor(rows, dtype=torch.float32)
    numbers, exponents = to_halves(vectors)
    assert torch.equal(numbers, vectors.half())
    assert not exponents.any()
    assert from_halves(numbers, exponents).dtype == torch.float16


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_stays_none_and_touches_no_other_row(odd: float) -> None:
    numbers, exponents = to_halves(torch.tensor([[1.0, odd], [1.0, 2.0]]))
    assert not math.isfinite(numbers[0, 1])
    assert numbers[1].tolist() == [1, 2]
    assert not exponents[1]
