import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mami_core.exemplars.quantile import HIGHEST, LOWEST, NUM_BINS, Histogram, bin_edges, bin_of

ANY_FLOAT = st.floats(width=32, allow_nan=False)


def bins(values: torch.Tensor) -> torch.Tensor:
    return bin_of(values.view(torch.int32))


def relu_maps(images: int, units: int = 5, size: int = 6) -> torch.Tensor:
    scale = torch.logspace(-3, 3, units)[:, None, None]
    return (torch.randn(images, units, size, size) * scale).relu_()


@given(st.lists(ANY_FLOAT, min_size=1))
def test_bins_follow_their_edges(numbers: list[float]) -> None:
    values = torch.tensor(numbers, dtype=torch.float32)
    expected = torch.searchsorted(bin_edges(), values.double())  # edge[b - 1] < value <= edge[b]
    assert torch.equal(bins(values).long(), torch.where(values > 0, expected.clamp(min=1), 0))


def test_bins_around_every_edge() -> None:
    edges = bin_edges()[1:-1].float()
    at = torch.arange(1, NUM_BINS - 1, dtype=torch.int32)
    assert torch.equal(bins(edges), at)
    assert torch.equal(bins(torch.nextafter(edges, torch.tensor(torch.inf))), at + 1)
    assert edges[0] == LOWEST
    assert edges[-1] == HIGHEST


def test_only_what_is_above_zero_is_active() -> None:
    values = torch.tensor([0.0, -0.0, -1e-45, -5.0, -torch.inf, 1e-45, torch.inf])
    assert bins(values).tolist() == [0, 0, 0, 0, 0, 1, NUM_BINS - 1]


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 9))
def test_histogram_does_not_depend_on_the_split_or_the_order(images: int, batch_size: int, cut: int) -> None:
    maps = relu_maps(images)
    whole = Histogram.empty(5).update(maps)
    order = torch.randperm(images)
    parts = []
    for part in (order[:cut], order[cut:]):
        state = Histogram.empty(5)
        for batch in maps[part].split(batch_size):
            state.update(batch)
        parts.append(state)
    merged = Histogram.empty(5).merge(parts[1]).merge(parts[0])
    assert torch.equal(merged.counts, whole.counts)
    assert torch.equal(merged.quantile(0.9), whole.quantile(0.9))
    assert merged.positions_seen == whole.positions_seen


@given(st.lists(st.booleans(), min_size=1, max_size=6))
def test_images_left_out_leave_no_trace(valid: list[bool]) -> None:
    keep = torch.tensor(valid)
    maps = relu_maps(len(valid))
    expected = Histogram.empty(5).update(maps[keep])
    maps[~keep] = torch.nan
    assert torch.equal(Histogram.empty(5).update(maps, keep).counts, expected.counts)


@pytest.mark.parametrize("block", [1, 500, 2**30])
def test_histogram_does_not_depend_on_memory_layout_or_block(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    maps = relu_maps(7)
    expected = torch.stack([bins(maps[:, unit].flatten()).bincount(minlength=NUM_BINS) for unit in range(5)])
    monkeypatch.setattr("mami_core.exemplars.quantile._BLOCK", block)
    assert torch.equal(Histogram.empty(5).update(maps).counts.long(), expected)
    channels_last = maps.contiguous(memory_format=torch.channels_last)
    assert torch.equal(Histogram.empty(5).update(channels_last).counts.long(), expected)
    assert torch.equal(Histogram.empty(5).update(maps.transpose(2, 3)).counts.long(), expected)


def test_a_vector_has_one_position() -> None:
    vectors = torch.randn(50, 3)
    assert torch.equal(
        Histogram.empty(3).update(vectors).counts, Histogram.empty(3).update(vectors[:, :, None, None]).counts
    )


@given(st.integers(0, 639), st.sampled_from(["relu", "exponential", "narrow"]))
def test_quantile_lies_in_the_bin_of_the_exact_one(rank: int, kind: str) -> None:
    draws = {
        "relu": torch.randn(40, 3, 4, 4).relu(),
        "exponential": torch.empty(40, 3, 4, 4).exponential_(),
        "narrow": 1 + torch.rand(40, 3, 4, 4) / 9,
    }
    exact = draws[kind].transpose(0, 1).flatten(1).sort(1).values[:, rank]
    found = Histogram.empty(3).update(draws[kind]).quantile((rank + 0.5) / 640)
    edges, place = bin_edges(), bins(exact).long()
    assert (found <= edges[place].float()).all()
    assert (found >= edges[(place - 1).clamp(min=0)].float()).all()
    in_range = exact > LOWEST
    assert ((found - exact).abs() <= exact / 8)[in_range].all()


def test_the_tail_above_the_threshold_has_the_asked_mass() -> None:
    maps = torch.randn(200, 4, 28, 28).relu()
    threshold = Histogram.empty(4).update(maps).quantile(0.99)
    tail = (maps > threshold[:, None, None]).double().mean((0, 2, 3))
    assert (tail / 0.01 - 1).abs().max() < 0.03


def test_threshold_is_zero_where_the_quantile_is_inactive() -> None:
    maps = torch.zeros(1, 3, 20, 20)
    maps[0, 1, 0, 0] = 5  # 1 in 400
    maps[0, 2, 0] = 5  # 20 in 400
    state = Histogram.empty(3).update(maps)
    assert state.quantile(0.99).tolist()[:2] == [0, 0]
    assert state.quantile(0.99)[2] == pytest.approx(5, rel=1 / 8)
    assert state.active_fraction().tolist() == [0, 1 / 400, 20 / 400]
    assert state.total().tolist() == [400] * 3


def test_an_empty_histogram_has_threshold_zero() -> None:
    assert Histogram.empty(2).quantile(0.99).tolist() == [0, 0]
    assert Histogram.empty(2).active_fraction().tolist() == [0, 0]


def test_beyond_the_last_bin_the_threshold_is_its_edge() -> None:
    assert Histogram.empty(1).update(torch.full((9, 1), 1e9)).quantile(0.5).item() == HIGHEST


def test_counts_widen_before_they_could_overflow() -> None:
    state = Histogram.empty(1).update(torch.ones(9, 1))
    assert state.counts.dtype == torch.int32
    state.counts *= 0
    state.counts[0, 5] = state.positions_seen = 2**31 - 2
    other = Histogram(state.counts.clone(), state.positions_seen)
    state.update(torch.ones(1, 1))
    assert state.counts.dtype == torch.int32
    assert state.update(torch.ones(100, 1)).total().item() == 2**31 + 99
    assert other.merge(other).total().item() == 2**32 - 4


def test_the_units_of_a_large_layer_do_not_depend_on_each_other() -> None:
    state = Histogram(torch.randint(0, 9, (2500, NUM_BINS), dtype=torch.int32))
    alone = [Histogram(state.counts[unit : unit + 1]).quantile(0.99) for unit in range(2500)]
    assert torch.equal(state.quantile(0.99), torch.cat(alone))
