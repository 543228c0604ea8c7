from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save

from mami_core.errors import ContractError
from mami_core.exemplars.states import LayerState, Read, load_states, read_layout, save_states


def state(units: int, k: int = 3, images: int = 20, first_image: int = 0) -> LayerState:
    filled = LayerState.empty(units, k)
    maps = torch.randn(images, units, 4, 4)
    filled.topk.update(maps.amax((2, 3)), torch.arange(first_image, first_image + images))
    filled.histogram.update(maps)
    return filled


def wide(units: int) -> LayerState:
    filled = state(units)
    filled.histogram.counts = filled.histogram.counts.long() + 2**40
    return filled


def assert_same(found: LayerState, expected: LayerState) -> None:
    assert torch.equal(found.topk.keys, expected.topk.keys)
    assert torch.equal(found.histogram.counts, expected.histogram.counts)
    assert found.histogram.counts.dtype == expected.histogram.counts.dtype


def counted(data: bytes) -> tuple[list[tuple[int, int]], Read]:
    calls: list[tuple[int, int]] = []

    def read(start: int, size: int) -> bytes:
        calls.append((start, size))
        return data[start : start + size]

    return calls, read


@given(st.dictionaries(st.text(min_size=1, max_size=9), st.tuples(st.integers(1, 5), st.booleans()), max_size=4))
def test_states_come_back(layers: dict[str, tuple[int, bool]]) -> None:
    states = {layer: wide(units) if large else state(units) for layer, (units, large) in layers.items()}
    found = load_states(save_states(states))
    assert list(found) == list(states)
    for layer, expected in states.items():
        assert_same(found[layer], expected)


def test_the_same_states_give_the_same_bytes() -> None:
    states = {"layer1": state(4), "conv1": state(70)}
    data = save_states(states)
    assert all(save_states(load_states(data)) == data for _ in range(5))
    assert set(load(data)) == {"layer1", "conv1"}  # any reader of safetensors reads it


def test_loaded_states_can_be_continued_and_merged() -> None:
    first, second = state(5), state(5, first_image=20)
    loaded = load_states(save_states({"a": first}))["a"]
    assert loaded.histogram.positions_seen == first.histogram.positions_seen == 20 * 16
    maps = torch.randn(2, 5, 4, 4)
    loaded.histogram.update(maps)
    assert_same(loaded.merge(second), LayerState(first.topk, first.histogram.update(maps)).merge(second))


@pytest.mark.parametrize("make", [state, wide])
def test_units_are_read_by_range(make: Callable[[int], LayerState]) -> None:
    states = {"first": make(3), "second": make(50)}
    calls, read = counted(save_states(states))
    layout = read_layout(read)["second"]
    found = layout.load(read, 10, 17)
    assert torch.equal(found.topk.keys, states["second"].topk.keys[10:17])
    assert torch.equal(found.histogram.counts, states["second"].histogram.counts[10:17])
    assert len(calls) == 2  # the header, and the units alone
    assert calls[1] == layout.byte_range(10, 17)
    assert calls[1][1] == 7 * layout.num_columns * found.histogram.counts.element_size()
    assert layout.num_units == 50


def test_every_chunk_of_a_run_has_the_same_layout() -> None:
    files = [save_states({"a": state(5), "b": state(7, images=images)}) for images in (1, 30)]
    first, second = (read_layout(counted(data)[1]) for data in files)
    assert first == second


def test_many_layers_take_one_more_read() -> None:
    states = {f"a.rather.long.name.of.layer.{number}": state(1) for number in range(800)}
    calls, read = counted(save_states(states))
    assert list(read_layout(read)) == list(states)
    assert len(calls) == 2


def test_a_unit_takes_at_most_1300_bytes() -> None:
    assert len(save_states({"layer": state(1000, k=15)})) / 1000 < 1300


DATA = save_states({"layer": LayerState.empty(4, 2)})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04 something else altogether",
        DATA[:5],
        DATA[:60],
        DATA[:-1],
        save({"layer": torch.zeros(3)}),
        save({"layer": torch.zeros(3)}, metadata={"mami": "[]"}),
        save({"layer": torch.zeros(3)}, metadata={"mami": "{"}),
    ],
)
def test_other_or_damaged_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ContractError):
        load_states(data)


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mami_core.exemplars.states.VERSION", 2)
    with pytest.raises(ContractError, match="'version': 1"):
        load_states(DATA)
