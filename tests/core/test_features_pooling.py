"""A pyramid averaged under regions."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mami_core.features import place, pool, pool_batch
from mami_core.features.pooling import NUM_PLACE, Pooling

HALVING = [(3, 16), (5, 8), (4, 4), (2, 2)]
"""Channels and side of each level."""


def pyramid_of(levels: list[tuple[int, int]], seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    maps = [torch.randn(1, channels, side, side, generator=generator) for channels, side in levels]
    return [level.contiguous(memory_format=torch.channels_last)[0] for level in maps]


def some_regions(count: int, side: int, seed: int = 0) -> Tensor:
    """Regions from single cells to nearly all."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(count, side, side, generator=generator)
    smallest = noise.flatten(1).amin(1)[:, None, None]
    return noise <= torch.maximum(torch.rand(count, 1, 1, generator=generator) - 0.3, smallest)


def overlap(source: int, target: int) -> list[list[float]]:
    """How much of cell j of `source` equal cells lies in cell i of `target` equal cells."""
    return [
        [
            max(0.0, min((i + 1) / target, (j + 1) / source) - max(i / target, j / source)) * source
            for j in range(source)
        ]
        for i in range(target)
    ]


def pooled_by_loops(pyramid: list[Tensor], regions: Tensor) -> Tensor:
    """The same, number by number: each position weighs what the region covers of its area."""
    rows = []
    for region in regions.double():
        row = []
        for level in pyramid:
            side = level.shape[1]
            share = overlap(region.shape[0], side)
            cells = region.nonzero().tolist()
            weights = torch.zeros(side, side, dtype=torch.float64)
            for y in range(side):
                for x in range(side):
                    weights[y, x] = sum(region[j, i].item() * share[y][j] * share[x][i] for j, i in cells)
            row.append((level.double() * weights).sum((1, 2)) / weights.sum())
        rows.append(torch.cat(row))
    return torch.stack(rows).float()


@given(
    grid=st.integers(3, 9),
    sides=st.lists(st.integers(1, 12), min_size=1, max_size=3),
    count=st.integers(1, 4),
    seed=st.integers(0, 999),
)
def test_pooling_agrees_with_a_plain_loop(grid: int, sides: list[int], count: int, seed: int) -> None:
    pyramid = pyramid_of([(2, side) for side in sides], seed)
    regions = some_regions(count, grid, seed)
    torch.testing.assert_close(pool(pyramid, regions), pooled_by_loops(pyramid, regions), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("grid", [16, 8, 32])
def test_levels_that_halve_agree_with_a_plain_loop(grid: int) -> None:
    pyramid, regions = pyramid_of(HALVING), some_regions(3, grid)
    torch.testing.assert_close(pool(pyramid, regions), pooled_by_loops(pyramid, regions), rtol=1e-5, atol=1e-5)


def test_soft_regions_weigh_their_positions() -> None:
    pyramid, regions = pyramid_of(HALVING), torch.rand(3, 16, 16)
    torch.testing.assert_close(pool(pyramid, regions), pooled_by_loops(pyramid, regions), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(pool(pyramid, regions), pool(pyramid, 7 * regions), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pooling", ["area", "bilinear"])
@pytest.mark.parametrize("sides", [[16, 8, 4], [13, 7, 5]])
def test_the_whole_image_gives_the_plain_mean(pooling: Pooling, sides: list[int]) -> None:
    pyramid = pyramid_of([(3, side) for side in sides])
    expected = torch.cat([level.mean((1, 2)) for level in pyramid])
    found = pool(pyramid, torch.ones(2, 16, 16, dtype=torch.bool), pooling=pooling)
    torch.testing.assert_close(found, expected.expand(2, -1), rtol=1e-5, atol=1e-5)


@given(row=st.integers(0, 15), column=st.integers(0, 15))
def test_a_single_position_counts_at_every_level(row: int, column: int) -> None:
    pyramid = pyramid_of(HALVING)
    region = torch.zeros(1, 16, 16, dtype=torch.bool)
    region[0, row, column] = True
    cells = [level[:, row * level.shape[1] // 16, column * level.shape[1] // 16] for level in pyramid]
    torch.testing.assert_close(pool(pyramid, region)[0], torch.cat(cells), rtol=1e-6, atol=1e-6)


def test_interpolation_loses_small_regions_at_coarse_levels_as_milan_does() -> None:
    pyramid = pyramid_of([(3, 16), (5, 2)])
    region = torch.zeros(1, 16, 16, dtype=torch.bool)
    region[0, 0, 0] = True
    found = pool(pyramid, region, pooling="bilinear")[0]
    torch.testing.assert_close(found[:3], pyramid[0][:, 0, 0])
    assert found[3:].eq(0).all()


def test_interpolated_regions_agree_with_torch() -> None:
    pyramid, regions = pyramid_of([(3, 16), (4, 7)]), some_regions(5, 16)
    expected = []
    for level in pyramid:
        weights = F.interpolate(regions[:, None].float(), size=level.shape[1:], mode="bilinear", align_corners=False)
        weights /= weights.sum((2, 3), keepdim=True).clamp_min(1e-12)
        expected.append((weights * level).sum((2, 3)))
    torch.testing.assert_close(pool(pyramid, regions, pooling="bilinear"), torch.cat(expected, 1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pooling", ["area", "bilinear"])
def test_an_empty_region_gives_zeros(pooling: Pooling) -> None:
    regions = torch.zeros(2, 16, 16, dtype=torch.bool)
    regions[0] = True
    found = pool(pyramid_of(HALVING), regions, pooling=pooling)
    assert found[1].eq(0).all()
    assert found[0].ne(0).any()


def test_no_regions_give_no_features() -> None:
    assert pool(pyramid_of(HALVING), torch.zeros(0, 16, 16, dtype=torch.bool)).shape == (0, 14)
    batch = [level[None] for level in pyramid_of(HALVING)]
    none = torch.zeros(0, dtype=torch.int64)
    assert pool_batch(batch, torch.zeros(0, 16, 16, dtype=torch.bool), none).shape == (0, 14)


@pytest.mark.parametrize("levels", [[(64, 112), (64, 56), (128, 28), (256, 14), (512, 7)], [(16, 64), (96, 27)]])
def test_features_do_not_depend_on_the_other_regions(levels: list[tuple[int, int]]) -> None:
    """Bit for bit: neither on how many there are, nor on their order, nor on the threads."""
    pyramid = pyramid_of(levels)
    regions = some_regions(37, levels[0][1])
    together = pool(pyramid, regions)
    order = torch.randperm(37)
    assert pool(pyramid, regions[order]).equal(together[order])
    for count in (1, 2, 5, 16, 17):
        assert pool(pyramid, regions[:count]).equal(together[:count])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3 - min(threads, 2))
        assert pool(pyramid, regions).equal(together)
    finally:
        torch.set_num_threads(threads)


@given(rows=st.lists(st.integers(0, 3), min_size=1, max_size=40))
def test_a_batch_gives_the_same_bits_as_its_images(rows: list[int]) -> None:
    pyramids = [pyramid_of(HALVING, seed) for seed in range(4)]
    batch = [torch.stack(levels) for levels in zip(*pyramids, strict=True)]
    regions = some_regions(len(rows), 16)
    found = pool_batch(batch, regions, torch.tensor(rows))
    for number, row in enumerate(rows):
        assert found[number].equal(pool(pyramids[row], regions[number : number + 1])[0])


def test_memory_layout_and_kind_of_region_do_not_matter() -> None:
    pyramid, regions = pyramid_of(HALVING), some_regions(5, 16)
    contiguous = [level.contiguous() for level in pyramid]
    assert pool(pyramid, regions).equal(pool(contiguous, regions))
    assert pool(pyramid, regions).equal(pool(pyramid, regions.float()))


@given(top=st.integers(0, 15), left=st.integers(0, 15), height=st.integers(1, 16), width=st.integers(1, 16))
def test_the_place_of_a_rectangle(top: int, left: int, height: int, width: int) -> None:
    height, width = min(height, 16 - top), min(width, 16 - left)
    region = torch.zeros(1, 16, 16, dtype=torch.bool)
    region[0, top : top + height, left : left + width] = True
    across, down = (2 * left + width) / 16 - 1, (2 * top + height) / 16 - 1
    # Of `count` equal steps of 2 / 16: their standard deviation is that of a uniform whole number.
    spread = [((count**2 - 1) / 12) ** 0.5 / 8 for count in (width, height)]
    expected = torch.tensor([[across, down, *spread, (height * width) ** 0.5 / 16]])
    torch.testing.assert_close(place(region), expected, atol=1e-5, rtol=0)


def test_a_region_of_nothing_is_nowhere() -> None:
    assert place(torch.zeros(2, 16, 16)).equal(torch.zeros(2, NUM_PLACE))
    assert place(torch.zeros(0, 16, 16, dtype=torch.bool)).shape == (0, NUM_PLACE)


@pytest.mark.parametrize("side", [7, 112])
def test_a_place_does_not_depend_on_the_other_regions(side: int) -> None:
    regions = some_regions(37, side)
    together, order = place(regions), torch.randperm(37)
    assert place(regions[order]).equal(together[order])
    for count in (1, 2, 16, 17):
        assert place(regions[:count]).equal(together[:count])
