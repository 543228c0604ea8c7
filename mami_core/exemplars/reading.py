"""The regions of exemplars, read off the maps that the subject has just given for a batch of images."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from mami_core.device import to_device
from mami_core.exemplars.pairs import Pairs
from mami_core.exemplars.region import regions

Draw = Callable[[Tensor, Tensor, int], Tensor]
"""Maps, thresholds and the grid's side → regions; see `exemplars.region`."""


class RegionReader:
    """Knows units and thresholds of all pairs on the device where the maps are: they go there once."""

    def __init__(
        self,
        pairs: Pairs,
        device: torch.device,
        draw: Draw = regions,
        *,
        first_units: Mapping[str, int] | None = None,
    ) -> None:
        """`first_units` are the numbers of the maps' first units, of layers where these are not 0."""
        self._pairs, self._draw = pairs, draw
        firsts = np.array([(first_units or {}).get(name, 0) for name in pairs.layer_names], np.int64)
        units = pairs.units.astype(np.int64) - firsts[pairs.layers]
        self._units = torch.from_numpy(units).to(device)
        self._thresholds = torch.from_numpy(pairs.thresholds).to(device)

    def read(
        self, maps: Mapping[str, Any], some: slice, rows: np.ndarray, sizes: Sequence[int]
    ) -> tuple[list[Bool[Tensor, "pairs _ _"]], np.ndarray]:
        """The regions of some pairs on grids of each size, in an order of its own, and which order that is.

        The pairs' images are these rows of the maps. Layers whose maps have one size are worked on together: few large
        steps suit an accelerator.
        """
        layers = self._pairs.layers[some]
        names = {layer: self._pairs.layer_names[layer] for layer in np.unique(layers).tolist()}
        by_size: dict[tuple[int, ...], list[int]] = {}
        for layer, name in names.items():
            by_size.setdefault(tuple(maps[name].shape[2:]), []).append(layer)
        order = [np.flatnonzero(layers == layer) for of_size in by_size.values() for layer in of_size]
        places = np.concatenate(order)
        on_device = to_device(np.stack([rows[places], some.start + places]), self._units.device)
        numbers, parts = iter(on_device.split([len(each) for each in order], dim=1)), []
        for of_size in by_size.values():
            of_layers = [(maps[names[layer]], next(numbers)) for layer in of_size]
            grids = torch.cat([found[row, self._units[pair]].float() for found, (row, pair) in of_layers])
            grids = grids if grids.ndim == 3 else grids[:, None, None]
            thresholds = self._thresholds[torch.cat([pair for _, (_, pair) in of_layers])]
            drawn = {size: self._draw(grids, thresholds, size) for size in set(sizes)}
            parts.append([drawn[size] for size in sizes])
        return [torch.cat(of_size) for of_size in zip(*parts, strict=True)], places


def most_regions_first(pairs: Pairs, images: np.ndarray) -> tuple[np.ndarray, slice, np.ndarray]:
    """Of a batch's images, neighbours in `pairs`: their order by number of pairs, where those are, and their rows then.

    `features.pool_batch` works without copies on images in that order.
    """
    first, end = (np.searchsorted(pairs.images, images, side=side) for side in ("left", "right"))
    order = np.argsort(first - end, kind="stable")
    rows = np.empty_like(order)
    rows[order] = np.arange(len(order))
    return order, slice(int(first[0]), int(end[-1])), np.repeat(rows, end - first)
