"""Networks on annotated photographs: every unit's peaks, threshold, exemplars and their regions.

Axes: P photographs, U units of a layer, K exemplars.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from mami_core.exemplars.quantile import Histogram
from mami_core.exemplars.region import regions
from mami_core.learning.dissected.units import REGION
from mami_core.subjects import Subject, Trace, list_layers

_BATCH = 16


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What a layer's units did on some photographs."""

    peaks: Float[np.ndarray, "p u"]
    """The highest activation of each unit on each photograph, in half precision."""
    histogram: Histogram


@torch.inference_mode()
def read_units(subject: Subject, layers: Sequence[str], photographs: UInt8[np.ndarray, "p 3 s s"]) -> dict[str, Seen]:
    """One pass of a subject over photographs."""
    device = subject.device
    num_units = {info.name: info.num_units for info in list_layers(subject)}
    histograms = {layer: Histogram.empty(num_units[layer], device) for layer in layers}
    peaks: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    with Trace(subject.network, layers) as maps:
        for start in range(0, len(photographs), _BATCH):
            batch, valid = _batch(subject, photographs[start : start + _BATCH], device)
            subject.read(batch, maps.run)
            for layer in layers:
                values = maps[layer].float()
                peaks[layer].append((values.amax((2, 3)) if values.ndim == 4 else values)[valid].half().cpu())
                histograms[layer].update(values, valid)
    return {layer: Seen(torch.cat(peaks[layer]).numpy(), histograms[layer]) for layer in layers}


def exemplars_of(peaks: Float[np.ndarray, "p u"], inside: Bool[np.ndarray, " p"], k: int) -> Int64[np.ndarray, "u {k}"]:
    """The photographs `inside` that drive each unit highest, strongest first; −1 where it is active on fewer."""
    numbers = np.flatnonzero(inside)
    values = np.nan_to_num(peaks[numbers].astype(np.float32), nan=0, posinf=0)
    order = np.argsort(-values, axis=0, kind="stable")[:k]
    found = np.where(np.take_along_axis(values, order, 0) > 0, numbers[order], -1).T
    return np.pad(found, ((0, 0), (0, k - found.shape[1])), constant_values=-1).astype(np.int64)


@torch.inference_mode()
def read_regions(
    subject: Subject,
    photographs: UInt8[np.ndarray, "p 3 s s"],
    wanted: dict[str, list[tuple[int, int]]],
    thresholds: dict[str, Float[Tensor, " u"]],
) -> dict[str, UInt8[np.ndarray, "pairs bytes"]]:
    """Where units are active on photographs, packed as `units.Exemplars` has it.

    Args:
        subject: On its device.
        photographs: Some photographs.
        wanted: By layer, pairs of a photograph's place among these and a unit, in any order.
        thresholds: By layer, of all its units.
    """
    device = subject.device
    found = {layer: np.zeros((len(pairs), REGION**2 // 8), np.uint8) for layer, pairs in wanted.items()}
    shown = {layer: np.array(pairs, np.int64).reshape(-1, 2) for layer, pairs in wanted.items()}
    with Trace(subject.network, list(wanted)) as maps:
        for start in range(0, len(photographs), _BATCH):
            batch, _ = _batch(subject, photographs[start : start + _BATCH], device)
            subject.read(batch, maps.run)
            for layer, pairs in shown.items():
                here = np.flatnonzero((pairs[:, 0] >= start) & (pairs[:, 0] < start + _BATCH))
                if not len(here):
                    continue
                at, units = (torch.from_numpy(column).to(device) for column in (pairs[here, 0] - start, pairs[here, 1]))
                grids = maps[layer][at, units].float()
                grids = grids if grids.ndim == 3 else grids[:, None, None]
                inside = regions(grids, thresholds[layer].to(device)[units], REGION)
                found[layer][here] = np.packbits(inside.flatten(1).cpu().numpy(), axis=1)
    return found


def _batch(
    subject: Subject, photographs: UInt8[np.ndarray, "p 3 s s"], device: torch.device
) -> tuple[UInt8[Tensor, "b 3 t t"], Bool[Tensor, " b"]]:
    """A batch of one fixed size at the subject's own, filled with black: no bit depends on how many there are."""
    pixels = torch.zeros(_BATCH, *photographs.shape[1:], dtype=torch.uint8)
    pixels[: len(photographs)] = torch.from_numpy(np.array(photographs))
    valid = torch.arange(_BATCH, device=device) < len(photographs)
    return at_size(pixels.to(device), subject.input_size), valid


def at_size(pixels: UInt8[Tensor, "b 3 s s"], side: int) -> UInt8[Tensor, "b 3 t t"]:
    """Squares of another side."""
    if pixels.shape[-1] == side:
        return pixels
    resized = F.interpolate(pixels.float(), size=(side, side), mode="bilinear", antialias=True, align_corners=False)
    return resized.round_().clamp_(0, 255).to(torch.uint8)
