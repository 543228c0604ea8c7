"""What people see of a region is all that lies in it."""

import numpy as np
import pytest

from mami_core.exemplars.picture import EDGE, outlined

SIDE, CELLS = 96, 32


@pytest.mark.parametrize("rows", [slice(10, 11), slice(10, 12), slice(4, 28)])
def test_a_region_is_shown_as_it_is_and_the_rest_fades_alike_from_black_and_from_white(rows: slice) -> None:
    photograph = np.zeros((SIDE, SIDE, 3), np.uint8)
    photograph[:, SIDE // 2 :] = 255
    region = np.zeros((CELLS, CELLS), bool)
    region[rows, 2:30] = True
    drawn = outlined(photograph, region)
    inside = np.repeat(np.repeat(region, 3, 0), 3, 1)
    edge = (drawn == EDGE).all(2)
    assert (drawn[inside] == photograph[inside]).all(1).mean() > 0.9  # but for its rounded corners
    assert edge[inside].mean() <= 0.1
    assert edge.any(1).sum() >= 2 + 3 * (rows.stop - rows.start)
    far = ~inside & ~edge
    black, white = (drawn[far & (photograph[..., 0] == tone)] for tone in (0, 255))
    assert set(np.unique(black)) == {128 - round(0.35 * 128)}
    assert set(np.unique(white)) == {128 + round(0.35 * 127)}


@pytest.mark.parametrize("region", [np.zeros((CELLS, CELLS), bool), np.ones((CELLS, CELLS), bool)])
def test_a_picture_that_is_all_region_or_has_none_stays_as_it_is(region: np.ndarray) -> None:
    photograph = np.random.default_rng(0).integers(256, size=(SIDE, SIDE, 3), dtype=np.uint8)
    np.testing.assert_array_equal(outlined(photograph, region), photograph)
