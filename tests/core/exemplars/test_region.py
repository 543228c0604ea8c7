import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from mami_core.contracts import REGION_SIDE
from mami_core.exemplars.region import enlarge, pack, regions
from mami_core.labels import unpack_regions


@given(st.integers(1, 30), st.integers(1, 30), st.integers(15, 40), st.integers(1, 40))
def test_enlarging_agrees_with_interpolate(height: int, width: int, size: int, pairs: int) -> None:
    maps = torch.randn(pairs, height, width)
    exact = maps[:, None].double()  # in single precision F.interpolate's own positions are 1e-6 off
    expected = F.interpolate(exact, size=(size, size), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(enlarge(maps, size), expected.float(), rtol=0, atol=2e-6)


def test_the_edge_is_extended_not_damped() -> None:
    assert torch.equal(enlarge(torch.ones(1, 7, 7), 112), torch.ones(1, 112, 112))
    corner = torch.zeros(1, 7, 7)
    corner[0, 0, 0] = 1
    assert (enlarge(corner, 112)[0, :8, :8] == 1).all()  # up to the first cell's centre


@given(st.floats(2**-10, 2**10, width=32), st.integers(2, 14), st.sampled_from([24, 56, 112, 128]))
def test_a_plateau_is_in_its_region_as_a_whole(height: float, side: int, size: int) -> None:
    maps = torch.full((1, side, side), height)
    assert torch.equal(enlarge(maps, size), torch.full((1, size, size), height))
    assert regions(maps, torch.tensor([2 * height]), size).all()
    maps[0, : side // 2] = 0
    found = regions(maps, torch.tensor([2 * height]), size)[0]
    assert found[-1].all(), "of what is as high everywhere, all"
    assert torch.equal(found.any(1), found.all(1))


@given(st.integers(1, 40), st.integers(1, 9), st.integers(8, 24))
def test_regions_do_not_depend_on_their_neighbours(pairs: int, cut: int, size: int) -> None:
    maps, thresholds = torch.randn(pairs, 9, 9), torch.rand(pairs)
    whole = regions(maps, thresholds, size)
    parts = zip(maps.split(cut), thresholds.split(cut), strict=True)
    assert torch.equal(torch.cat([regions(some, above, size) for some, above in parts]), whole)


@given(st.integers(1, 50), st.integers(1, 50), st.floats(-1, 3, width=32), st.integers(4, 20))
def test_an_active_neuron_always_has_a_region(height: int, width: int, threshold: float, size: int) -> None:
    maps = torch.full((4, height, width), -9.0)
    for pair, (row, column) in enumerate([(0, 0), (-1, -1), (height // 2, width // 3), (height // 3, -1)]):
        maps[pair, row, column] = 1.0  # a single cell, deep below zero around it
    assert regions(maps, torch.full((4,), threshold), size).flatten(1).any(1).all()


def test_a_neuron_that_never_fires_has_no_region() -> None:
    maps = torch.stack([torch.zeros(5, 5), torch.full((5, 5), -1.0)])
    for threshold in (0.0, -3.0, 2.0):
        assert not regions(maps, torch.full((2,), threshold), 10).any()


def test_a_single_cell_becomes_a_region_around_its_centre() -> None:
    maps = torch.zeros(1, 7, 7)
    maps[0, 3, 3] = 1
    mask = regions(maps, torch.tensor([0.5]), 70)[0]
    rows, columns = mask.nonzero(as_tuple=True)
    assert mask[35, 35]
    assert rows.min() + rows.max() == columns.min() + columns.max() == 69
    assert 30 <= rows.min() <= 35


def test_a_threshold_above_the_peak_leaves_the_peak() -> None:
    maps = torch.rand(3, 6, 6)
    up = enlarge(maps, 24)
    mask = regions(maps, torch.full((3,), 2.0), 24)
    assert torch.equal(mask, up == up.amax((1, 2), keepdim=True))


def test_a_threshold_of_zero_gives_everything_active() -> None:
    maps = torch.randn(3, 6, 6)
    assert torch.equal(regions(maps, torch.zeros(3), 24), enlarge(maps.clamp(min=0), 24) > 0)


@pytest.mark.parametrize("value", [0.3, 7.0])
def test_a_vector_covers_the_whole_image(value: float) -> None:
    assert regions(torch.tensor([[[value]]]), torch.tensor([1.0]), 8).all()


def test_no_pairs_give_no_regions() -> None:
    assert regions(torch.zeros(0, 7, 7), torch.zeros(0), 16).shape == (0, 16, 16)


@given(st.integers(0, 5), st.integers(0, 2**31))
def test_a_region_is_stored_and_read_back(count: int, seed: int) -> None:
    grids = torch.rand(count, REGION_SIDE, REGION_SIDE, generator=torch.Generator().manual_seed(seed)) > 0.5
    packed = [row.tobytes() for row in pack(grids).numpy()]
    assert (unpack_regions(packed) == grids.numpy()).all()
    assert unpack_regions(packed).shape == (count, REGION_SIDE, REGION_SIDE)
