"""How strongly held-out images drive every unit: what the trust in a caption is measured on.

A layer is one tensor with one row per unit, so that any range of units is one range of bytes, as in `states`.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float16, Int64
from safetensors.torch import save
from torch import Tensor

from mami_core.errors import ContractError
from mami_core.exemplars.search import OnBad
from mami_core.exemplars.states import Read, read_header
from mami_core.images import ImageBatch
from mami_core.subjects import Subject, describe_layers
from mami_core.subjects.reading.lenses import highest

_KIND, _VERSION = "held-out activations", 1
_LARGEST = torch.finfo(torch.float16).max


@dataclass(frozen=True, slots=True, eq=False)
class Watched:
    """What some images do to every unit of some layers."""

    images: Int64[Tensor, " images"]
    """The images' numbers."""
    activations: dict[str, Float16[Tensor, "_ images"]]
    """For each layer, units × images: each unit's highest activation, as half precision keeps it."""


def kept(activations: Tensor) -> Float16[Tensor, "*shape"]:
    """Activations as they are kept: in half precision, what is beyond its range as its largest number."""
    return activations.float().clamp(-_LARGEST, _LARGEST).half()


@torch.inference_mode()
def watch(subject: Subject, layers: Sequence[str], batches: Iterable[ImageBatch], *, on_bad: OnBad) -> Watched:
    """Each unit's highest activation on each image, from batches at the subject's input size.

    An image whose highest activation is not a finite number in any of the layers is left out, and `on_bad` told.
    """
    num_units = {info.name: info.num_units for info in describe_layers(subject, layers)}
    numbers: list[Tensor] = []
    found: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    with subject.trace(layers) as maps:
        for batch in batches:
            subject.read(batch.pixels[0].to(subject.device, non_blocking=True), maps.run)
            peaks = {layer: highest(maps[layer]) for layer in layers}
            fine = torch.stack([layer_peaks.isfinite().all(1) for layer_peaks in peaks.values()]).all(0).cpu()
            valid = torch.arange(len(fine)) < batch.num_valid
            for image in batch.images[valid & ~fine].tolist():
                on_bad(image, "activations that are not finite numbers")
            numbers.append(batch.images[valid & fine])
            for layer, layer_peaks in peaks.items():
                found[layer].append(kept(layer_peaks).cpu()[valid & fine])
    return Watched(
        torch.cat([torch.empty(0, dtype=torch.int64), *numbers]),
        {
            layer: torch.cat(parts).T.contiguous() if parts else torch.empty(num_units[layer], 0, dtype=torch.float16)
            for layer, parts in found.items()
        },
    )


def save_watched(watched: Watched) -> bytes:
    """A safetensors file: the same activations give the same bytes."""
    description = {"kind": _KIND, "version": _VERSION, "layers": list(watched.activations)}
    tensors = {f"layer {number}": rows for number, rows in enumerate(watched.activations.values())}
    return save({"images": watched.images} | tensors, metadata={"mami": json.dumps(description)})


@dataclass(frozen=True, slots=True)
class WatchedFile:
    """A file of activations, of which ranges of units can be read."""

    images: Int64[Tensor, " images"]
    starts: dict[str, int]
    """Where each layer's first unit begins."""

    @staticmethod
    def open(read: Read) -> "WatchedFile":
        """Mostly with one call of `read`.

        Raises:
            ContractError: other bytes than `save_watched` gives, another version, or a file that was cut off.
        """
        try:
            header, start = read_header(read)
            description = json.loads(header["__metadata__"]["mami"])
            found = {name: description.get(name) for name in ("kind", "version")}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ContractError(f"expected {_KIND} in safetensors, found something else ({error!r}).") from error
        if found != {"kind": _KIND, "version": _VERSION}:
            raise ContractError(f"expected {_KIND} version {_VERSION}, found {found}: start a new output folder.")
        starts = {
            layer: start + header[f"layer {number}"]["data_offsets"][0]
            for number, layer in enumerate(description["layers"])
        }
        first, end = header["images"]["data_offsets"]
        images = np.frombuffer(_exactly(read, start + first, end - first), "<i8")
        return WatchedFile(torch.from_numpy(images.copy()), starts)

    def load(self, read: Read, layer: str, first: int, end: int) -> Float16[Tensor, "units images"]:
        """The activations of the layer's units from `first` up to but not including `end`."""
        row = 2 * len(self.images)
        data = _exactly(read, self.starts[layer] + first * row, (end - first) * row) if row else b""
        return torch.from_numpy(np.frombuffer(data, "<f2").reshape(end - first, len(self.images)).copy())


def _exactly(read: Read, start: int, size: int) -> bytes:
    data = read(start, size) if size else b""
    if len(data) != size:
        raise ContractError(f"{_KIND}: expected {size} bytes from {start}, got {len(data)}: cut off.")
    return data
