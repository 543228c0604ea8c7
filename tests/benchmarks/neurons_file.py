"""Described neurons with their features in one small file, so that a benchmark can travel to another machine.

A feature is a byte: its column's smallest value plus so many steps of 1/255 of the column's range (0.1 % and 99.9 % of
its values; what lies beyond is cut). That moves a standardised feature by less than 0.02.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, UInt8
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from mami_core.learning.descriptions import Neuron
from mami_core.learning.training import Examples

_NEURONS_AT_ONCE = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class NeuronsFile:
    """What the file holds."""

    examples: Examples
    columns: Mapping[str, tuple[int, int]]
    """Which numbers of a vector are what: "levels", "place", "scene"."""
    test_layers: tuple[str, ...]
    """Layers whose neurons are for test."""

    def with_columns(self, names: Sequence[str]) -> Examples:
        """The examples with these parts of their vectors alone."""
        parts = [self.examples.features[..., slice(*self.columns[name])] for name in names]
        return Examples(
            neurons=self.examples.neurons,
            descriptions=self.examples.descriptions,
            features=torch.cat(parts, -1),
            present=self.examples.present,
        )


def write(path: Path, content: NeuronsFile) -> None:
    """Store the neurons."""
    examples = content.examples
    low, step = _range(examples.features, examples.present)
    codes = torch.cat([_coded(some, low, step) for some in examples.features.split(_NEURONS_AT_ONCE)])
    about = {
        "neurons": [list(neuron) for neuron in examples.neurons],
        "descriptions": examples.descriptions,
        "columns": content.columns,
        "test_layers": content.test_layers,
    }
    tensors = {"codes": codes * examples.present[..., None], "low": low, "step": step, "present": examples.present}
    save_file(tensors, path, metadata={"about": json.dumps(about)})


def read(path: Path) -> NeuronsFile:
    """What `write` stored."""
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["about"])
        codes, low, step = (file.get_tensor(name) for name in ("codes", "low", "step"))
        examples = Examples(
            neurons=tuple(Neuron(layer, unit) for layer, unit in about["neurons"]),
            descriptions=tuple(tuple(texts) for texts in about["descriptions"]),
            features=torch.cat([(some * step + low).half() for some in codes.split(_NEURONS_AT_ONCE)]),
            present=file.get_tensor("present"),
        )
    columns = {name: (first, end) for name, (first, end) in about["columns"].items()}
    return NeuronsFile(examples=examples, columns=columns, test_layers=tuple(about["test_layers"]))


def _range(
    features: Float[Tensor, "neurons k features"], present: Bool[Tensor, "neurons k"]
) -> tuple[Float[Tensor, " features"], Float[Tensor, " features"]]:
    rows = features[present]
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:20_000]].float()
    low, high = torch.quantile(rows, torch.tensor([0.001, 0.999]), dim=0)
    return low.contiguous(), ((high - low) / 255).clamp_min(1e-6)


def _coded(
    features: Float[Tensor, "n k features"], low: Float[Tensor, " features"], step: Float[Tensor, " features"]
) -> UInt8[Tensor, "n k features"]:
    return ((features.float().nan_to_num() - low) / step).round().clamp(0, 255).to(torch.uint8)
