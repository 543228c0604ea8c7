"""A region's outline says exactly which cells are inside."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jobs.reporting.outline import outline


def filled(text: str, side: int) -> np.ndarray:
    """The cells between the lines: each line going down turns everything on its right round."""
    inside = np.zeros((side, side), bool)
    for loop in filter(None, text.split(";")):
        x, y, *runs = map(int, loop.split())
        for number, run in enumerate(runs):
            if number % 2:
                inside[min(y, y + run) : max(y, y + run), x:] ^= True
                y += run
            else:
                x += run
    return inside


@given(side=st.integers(1, 9), seed=st.integers(0, 2**31), share=st.floats(0, 1))
def test_the_outline_gives_the_region_back(side: int, seed: int, share: float) -> None:
    region = np.random.default_rng(seed).random((side, side)) < share
    text = outline(region)
    assert (filled(text, side) == region).all()
    for loop in filter(None, text.split(";")):
        x, y, *runs = map(int, loop.split())
        assert len(runs) % 2 == 0
        assert 0 not in runs
        assert sum(runs[::2]) == sum(runs[1::2]) == 0, "it ends where it began"
        assert 0 <= x < side
        assert 0 <= y < side


def test_the_whole_picture_is_one_square() -> None:
    assert outline(np.ones((56, 56), bool)) == "0 0 56 56 -56 -56"
    assert outline(np.zeros((56, 56), bool)) == ""
