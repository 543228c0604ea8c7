import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mami_core.exemplars.topk import MAX_IMAGE, NO_IMAGE, TopK, pack, unpack

ANY_FLOAT = st.floats(width=32, allow_nan=False)
FEW_VALUES = st.sampled_from([-1.0, 0.0, 1e-45, 0.5, 1.0, 2.0, float("inf")])  # few, so that they tie


@st.composite
def activations(draw: st.DrawFn) -> torch.Tensor:
    """Images × units."""
    images, units = draw(st.integers(1, 12)), draw(st.integers(1, 4))
    return torch.tensor(draw(st.lists(FEW_VALUES, min_size=images * units, max_size=images * units))).view(-1, units)


def fold(values: torch.Tensor, images: torch.Tensor, k: int, batch_size: int) -> TopK:
    state = TopK.empty(values.shape[1], k)
    for some, numbers in zip(values.split(batch_size), images.split(batch_size), strict=True):
        state.update(some, numbers)
    return state


def plainly(values: torch.Tensor, k: int) -> list[list[tuple[float, int]]]:
    units = []
    for column in values.T.tolist():
        ranked = sorted((-value, image) for image, value in enumerate(column) if value > 0)
        units.append([(-value, image) for value, image in ranked[:k]])
    return units


def listed(state: TopK) -> list[list[tuple[float, int]]]:
    values, images, numbers = state.activations().tolist(), state.images().tolist(), state.num_exemplars().tolist()
    return [list(zip(v, i, strict=True))[:n] for v, i, n in zip(values, images, numbers, strict=True)]


@given(st.lists(st.tuples(ANY_FLOAT, st.integers(0, MAX_IMAGE)), min_size=1))
def test_packed_values_come_back_to_the_bit(pairs: list[tuple[float, int]]) -> None:
    values = torch.tensor([value for value, _ in pairs], dtype=torch.float32)
    images = torch.tensor([image for _, image in pairs], dtype=torch.int64)
    back_values, back_images = unpack(pack(values, images))
    assert torch.equal(back_values.view(torch.int32), values.view(torch.int32))
    assert torch.equal(back_images, images)


@pytest.mark.parametrize("bits", range(-(2**31), 2**31, 2**31 // 8))
def test_every_kind_of_float_comes_back_to_the_bit(bits: int) -> None:
    near = torch.arange(bits, min(bits + 4096, 2**31), dtype=torch.int64).to(torch.int32)
    values = near.view(torch.float32)  # subnormals, infinities and NaNs among them
    assert torch.equal(unpack(pack(values, near.long() & MAX_IMAGE))[0].view(torch.int32), near)


@given(ANY_FLOAT, ANY_FLOAT, st.integers(0, MAX_IMAGE), st.integers(0, MAX_IMAGE))
def test_packed_order_is_by_value_then_by_lower_image(a: float, b: float, image_a: int, image_b: int) -> None:
    key_a, key_b = pack(torch.tensor([a, b]), torch.tensor([image_a, image_b])).tolist()
    if a != b:
        assert (key_a < key_b) == (a < b)
    elif str(a) == str(b):  # not 0.0 and -0.0
        assert (key_a < key_b) == (image_a > image_b)


@given(activations(), st.integers(1, 5), st.integers(1, 12))
def test_topk_is_what_sorting_gives(values: torch.Tensor, k: int, batch_size: int) -> None:
    state = fold(values, torch.arange(len(values)), k, batch_size)
    assert listed(state) == plainly(values, k)


def test_topk_agrees_with_torch() -> None:
    values = torch.rand(500, 7)
    state = fold(values, torch.arange(500), 15, 32)
    expected = values.topk(15, dim=0)
    assert torch.equal(state.activations(), expected.values.T)
    assert torch.equal(state.images(), expected.indices.T)


@given(activations(), st.randoms(use_true_random=False), st.integers(1, 4), st.integers(1, 4))
def test_topk_does_not_depend_on_the_split_or_the_order(
    values: torch.Tensor, chance: random.Random, k: int, batch_size: int
) -> None:
    whole = fold(values, torch.arange(len(values)), k, len(values))
    order = list(range(len(values)))
    chance.shuffle(order)
    cut = chance.randint(0, len(order))
    parts = [torch.tensor(part, dtype=torch.int64) for part in (order[:cut], order[cut:])]
    first, second = (fold(values[part], part, k, batch_size) for part in parts)
    assert torch.equal(TopK(first.keys.clone()).merge(second).keys, whole.keys)
    assert torch.equal(second.merge(first).keys, whole.keys)


@given(activations(), st.integers(1, 4), st.integers(0, 12))
def test_images_seen_twice_count_once(values: torch.Tensor, k: int, again: int) -> None:
    images = torch.arange(len(values))
    once = fold(values, images, k, 4)
    twice = TopK(once.keys.clone()).merge(once).update(values[again:], images[again:])
    assert torch.equal(twice.keys, once.keys)
    assert torch.equal(twice.merge(fold(values[:again], images[:again], k, 3)).keys, once.keys)


def test_a_unit_that_never_fires_has_no_exemplars() -> None:
    state = TopK.empty(2, 3).update(torch.tensor([[0.0, 1.0], [-2.0, 0.0]]), torch.tensor([0, 1]))
    assert state.num_exemplars().tolist() == [0, 1]
    assert state.images().tolist() == [[NO_IMAGE] * 3, [0, NO_IMAGE, NO_IMAGE]]
    assert state.activations().tolist() == [[0, 0, 0], [1, 0, 0]]


def test_padding_and_nan_take_no_part() -> None:
    values = torch.tensor([[9.0], [1.0], [float("nan")]])
    state = TopK.empty(1, 2).update(values, torch.tensor([NO_IMAGE, MAX_IMAGE, 5]))
    assert listed(state) == [[(1.0, MAX_IMAGE)]]


def test_half_precision_keeps_its_values() -> None:
    values = torch.rand(40, 3).bfloat16()
    state = fold(values, torch.arange(40), 5, 8)
    assert torch.equal(state.activations(), fold(values.float(), torch.arange(40), 5, 8).activations())


def test_topk_does_not_depend_on_how_many_units_are_done_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    values, images = torch.randn(60, 11), torch.arange(60)
    whole = fold(values, images, 4, 8)
    monkeypatch.setattr("mami_core.exemplars.topk._UNITS_AT_ONCE", 2)
    assert torch.equal(fold(values, images, 4, 8).keys, whole.keys)
    assert torch.equal(fold(values[:30], images[:30], 4, 8).merge(fold(values, images, 4, 8)).keys, whole.keys)
