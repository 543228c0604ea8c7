"""Described neurons with their features in one small file, so that a benchmark can travel to another machine.

A feature is a byte: its column's smallest value plus so many steps of 1/255 of the column's range (0.1 % and 99.9 % of
its values; what lies beyond is cut). What is the same for all
exemplars that show an image (the encoder's "scene") is stored once an image.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int64, UInt8
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


def write(
    path: Path,
    content: NeuronsFile,
    *,
    scenes: Float[Tensor, "images features"] | None = None,
    images: Int64[Tensor, "neurons k"] | None = None,
) -> None:
    """Store the neurons; with each image's `scenes` and the image that each exemplar shows, these as columns too."""
    examples = content.examples
    low, step = _range(examples.features[examples.present])
    codes = torch.cat([_coded(some, low, step) for some in examples.features.split(_NEURONS_AT_ONCE)])
    about = {
        "neurons": [list(neuron) for neuron in examples.neurons],
        "descriptions": examples.descriptions,
        "columns": content.columns,
        "test_layers": content.test_layers,
    }
    tensors = {"codes": codes * examples.present[..., None], "low": low, "step": step, "present": examples.present}
    if scenes is not None and images is not None:
        low, step = _range(scenes)
        tensors |= {"scenes": _coded(scenes, low, step), "scenes_low": low, "scenes_step": step}
        tensors["images"] = images.clamp_min(0).to(torch.int16)
    save_file(tensors, path, metadata={"about": json.dumps(about)})


def read(path: Path) -> NeuronsFile:
    """What `write` stored."""
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["about"])
        codes, low, step = (file.get_tensor(name) for name in ("codes", "low", "step"))
        features = torch.cat([(some * step + low).half() for some in codes.split(_NEURONS_AT_ONCE)])
        columns = {name: (first, end) for name, (first, end) in about["columns"].items()}
        if "scenes" in file.keys():  # noqa: SIM118 - a safetensors file is no dictionary
            codes, low, step = (file.get_tensor(name) for name in ("scenes", "scenes_low", "scenes_step"))
            columns["scene"] = (features.shape[-1], features.shape[-1] + codes.shape[-1])
            features = torch.cat([features, (codes * step + low).half()[file.get_tensor("images").long()]], -1)
        examples = Examples(
            neurons=tuple(Neuron(layer, unit) for layer, unit in about["neurons"]),
            descriptions=tuple(tuple(texts) for texts in about["descriptions"]),
            features=features,
            present=file.get_tensor("present"),
        )
    return NeuronsFile(examples=examples, columns=columns, test_layers=tuple(about["test_layers"]))


def _range(rows: Float[Tensor, "rows features"]) -> tuple[Float[Tensor, " features"], Float[Tensor, " features"]]:
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:20_000]].float()
    low, high = torch.quantile(rows, torch.tensor([0.001, 0.999]), dim=0)
    return low.contiguous(), ((high - low) / 255).clamp_min(1e-6)


def _coded(
    features: Float[Tensor, "*rows features"], low: Float[Tensor, " features"], step: Float[Tensor, " features"]
) -> UInt8[Tensor, "*rows features"]:
    return ((features.float().nan_to_num() - low) / step).round().clamp(0, 255).to(torch.uint8)
