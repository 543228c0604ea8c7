"""What an exemplar search knows of a layer, and its bytes: a safetensors file of which parts can be read and merged.

A layer is one tensor with one row per unit, the row holding the unit's top-k and histogram. So any range of units is
one range of bytes, at the same place in the states of every image chunk of a run.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from mami_core.errors import ContractError
from mami_core.exemplars.quantile import NUM_BINS, Histogram
from mami_core.exemplars.topk import NO_IMAGE, TopK

VERSION = 1

_KIND = "exemplar states"
_METADATA = "mami"  # one key only: safetensors does not keep several in order
_FIRST_READ = 2**16  # holds the header of a few hundred layers

Read = Callable[[int, int], bytes]
"""Gives the bytes from a start, of a size, or fewer where the file ends."""


@dataclass(slots=True, eq=False)
class LayerState:
    """Both statistics of one layer's units."""

    topk: TopK
    histogram: Histogram

    @staticmethod
    def empty(num_units: int, k: int, device: torch.device | str = "cpu") -> "LayerState":
        """No image seen yet."""
        return LayerState(TopK.empty(num_units, k, device), Histogram.empty(num_units, device))

    @property
    def num_units(self) -> int:
        """How many units the layer, or this part of it, has."""
        return len(self.topk.keys)

    def to(self, device: torch.device | str) -> "LayerState":
        """The same on another device."""
        histogram = Histogram(self.histogram.counts.to(device), self.histogram.positions_seen)
        return LayerState(TopK(self.topk.keys.to(device)), histogram)

    def update_some(self, some: slice, peaks: Tensor, maps: Tensor, images: Tensor) -> None:
        """Add a batch of images for a range of units alone; `Histogram.saw` is told once all ranges have it."""
        TopK(self.topk.keys[some]).update(peaks, images)
        Histogram(self.histogram.counts[some]).update(maps, images != NO_IMAGE)

    def merge(self, other: "LayerState") -> "LayerState":
        """Add, in place, what another search saw of the same units on other images."""
        self.topk.merge(other.topk)
        self.histogram.merge(other.histogram)
        return self


def save_states(states: Mapping[str, LayerState]) -> bytes:
    """A safetensors file of every layer's state: the same states give the same bytes."""
    description = {"kind": _KIND, "version": VERSION, "bins": NUM_BINS, "layers": list(states)}
    rows = {layer: _rows(state) for layer, state in states.items()}
    return save(rows, metadata={_METADATA: json.dumps(description)})


def _rows(state: LayerState) -> Tensor:
    """One row per unit: its k keys, then its counts. Where the counts have 32 bits, a key takes two places."""
    keys, counts = state.topk.keys.cpu(), state.histogram.counts.cpu()
    return torch.cat([keys.view(counts.dtype), counts], dim=1)


def load_states(data: bytes) -> dict[str, LayerState]:
    """What `save_states` was given, the layers in the same order.

    Raises:
        ContractError: other bytes, another version, or a file that was cut off.
    """
    return {layer: lies.load(_part(data), 0, lies.num_units) for layer, lies in read_layout(_part(data)).items()}


def _part(data: bytes) -> Read:
    return lambda start, size: data[start : start + size]


@dataclass(frozen=True, slots=True)
class LayerLayout:
    """Where one layer's units lie in a file of states."""

    start: int
    """The first unit's first byte."""
    num_units: int
    num_columns: int
    dtype: str
    """Of every number, as numpy says it: "<i4" or "<i8"."""

    def byte_range(self, first_unit: int, end_unit: int) -> tuple[int, int]:
        """Start and size in bytes of the units from `first_unit` up to but not including `end_unit`."""
        row_size = self.num_columns * np.dtype(self.dtype).itemsize
        return self.start + first_unit * row_size, (end_unit - first_unit) * row_size

    def load(self, read: Read, first_unit: int, end_unit: int) -> LayerState:
        """The state of these units, with one call of `read`.

        Raises:
            ContractError: the file ends before them.
        """
        start, size = self.byte_range(first_unit, end_unit)
        data = read(start, size)
        if len(data) != size:
            raise ContractError(f"exemplar states: expected {size} bytes from {start}, got {len(data)}: cut off.")
        rows = np.frombuffer(data, self.dtype).reshape(-1, self.num_columns)
        keys, counts = np.split(rows, [self.num_columns - NUM_BINS], axis=1)
        histogram = Histogram(torch.from_numpy(counts.copy()))
        histogram.positions_seen = int(histogram.total()[:1].sum())  # every unit of a layer has seen as many
        return LayerState(TopK(torch.from_numpy(keys.copy().view("<i8"))), histogram)


def read_layout(read: Read) -> dict[str, LayerLayout]:
    """Where each layer's units lie in a file of states, mostly with one call of `read`; the layers in their order.

    Raises:
        ContractError: other bytes than `save_states` gives, another version, or a file that was cut off.
    """
    try:
        header, data_start = read_header(read)
        description = json.loads(header["__metadata__"][_METADATA])
        found = {name: description.get(name) for name in ("kind", "version", "bins")}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ContractError(f"expected exemplar states in safetensors, found something else ({error!r}).") from error
    expected = {"kind": _KIND, "version": VERSION, "bins": NUM_BINS}
    if found != expected:
        raise ContractError(
            f"expected {expected}, found {found}: written by another version of this project. "
            "Start a new output folder."
        )
    return {layer: _lies(header[layer], data_start) for layer in description["layers"]}


def read_header(read: Read) -> tuple[dict, int]:
    """A safetensors file's header and where the tensors begin: 8 bytes say how long the JSON after them is."""
    data = read(0, _FIRST_READ)
    end = 8 + int.from_bytes(data[:8], "little")
    if end > len(data) == _FIRST_READ:
        data += read(len(data), end - len(data))
    return json.loads(data[8:end]), end


def _lies(tensor: dict, data_start: int) -> LayerLayout:
    num_units, num_columns = tensor["shape"]
    dtype = {"I32": "<i4", "I64": "<i8"}[tensor["dtype"]]
    return LayerLayout(data_start + tensor["data_offsets"][0], num_units, num_columns, dtype)
