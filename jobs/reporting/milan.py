"""A finished run as MILAN's folders of exemplars, which its scripts and `mami_core.learning.milan_folder` read.

Photographs are decoded anew, each once, into arrays that lie on the disk; masks are the regions that the run keeps, on
its grid of 56 cells, enlarged. Units that are active nowhere are left out; where a unit has fewer exemplars than
others, black pictures with empty masks, the number −1 and no activation (nan) fill its row.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from jobs.reporting.sources import Source, image_rows, images_shown
from jobs.storage import safe_name
from mami_core import contracts
from mami_core.errors import ImageError
from mami_core.images import InThreads
from mami_core.labels import unpack_regions
from mami_core.learning.milan_folder import descriptions_file

_SIDE = 224
_OUTSIDE = 0.25
"""How bright MILAN's pictures for people are outside the region."""


class _Layer:
    """One layer's arrays on the disk, and where in them each image goes."""

    def __init__(self, folder: Path, rows: list[dict], regions: list[dict], k: int) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.images = _create(folder / "images.npy", (len(rows), k, 3, _SIDE, _SIDE))
        self.masks = _create(folder / "masks.npy", (len(rows), k, 1, _SIDE, _SIDE))
        self.places: dict[int, list[tuple[int, int]]] = {}
        activations, ids = np.full((len(rows), k), np.nan), np.full((len(rows), k), -1)
        for number, (row, where) in enumerate(zip(rows, regions, strict=True)):
            count = len(row["images"])
            activations[number, :count], ids[number, :count] = row["activations"], row["images"]
            enlarged = unpack_regions(where["regions"]).repeat(_SIDE // contracts.REGION_SIDE, 1)
            self.masks[number, :count, 0] = enlarged.repeat(_SIDE // contracts.REGION_SIDE, 2)
            for rank, image in enumerate(row["images"]):
                self.places.setdefault(image, []).append((number, rank))
        np.save(folder / "units.npy", np.array([row["unit"] for row in rows]))
        np.savetxt(folder / "activations.csv", activations, delimiter=",", fmt="%.5e")
        np.savetxt(folder / "ids.csv", ids, delimiter=",", fmt="%i")

    def put(self, image: int, pixels: np.ndarray, *, viz: bool) -> None:
        """The image at all of its places."""
        for number, rank in self.places.get(image, ()):
            self.images[number, rank] = pixels
            if viz:
                shown = pixels * np.where(self.masks[number, rank] > 0, 1, _OUTSIDE)
                place = self.folder / "viz" / f"unit_{number}"
                place.mkdir(parents=True, exist_ok=True)
                Image.fromarray(shown.astype(np.uint8).transpose(1, 2, 0)).save(place / f"image_{rank}.png")


def write_exemplars(source: Source, folder: Path, *, viz: bool = False) -> int:
    """Write every layer's exemplars and `descriptions.csv`; how many neurons there are.

    `viz` adds MILAN's pictures for people, one an exemplar.
    """
    captions: dict[tuple[str, int], str] = {}
    layers = []
    for layer in dict.fromkeys(shard.layer for shard in source.shards):
        shards = [shard for shard in source.shards if shard.layer == layer]
        rows = [row for shard in shards for row in source.exemplars(shard).to_pylist()]
        regions = [row for shard in shards for row in source.regions(shard).to_pylist()]
        alive = [number for number, row in enumerate(rows) if row["images"]]
        if alive:
            there = [rows[number] for number in alive], [regions[number] for number in alive]
            layers.append(_Layer(folder / safe_name(layer), *there, source.k))
        for shard in shards:
            table = source.labels(shard).select(["unit", "caption"])
            captions |= {
                (layer, row["unit"]): row["caption"] for row in table.to_pylist() if row["caption"] is not None
            }
    for image, pixels in _photographs(image_rows(source, images_shown([source])), source):
        for layer in layers:
            layer.put(image, pixels, viz=viz)
    (folder / "descriptions.csv").write_bytes(descriptions_file(captions))
    return len(captions)


def _photographs(rows: pa.Table, source: Source) -> Iterator[tuple[int, np.ndarray]]:
    decoded = InThreads(2)(rows, source.storage, sizes=(_SIDE,), crop=source.crop, batch_size=16)
    for image, squares in decoded:
        if isinstance(squares, ImageError):
            raise ImageError(f"image {image} could be read when the run was made, but now: {squares}")
        yield image, squares[0].numpy()


def _create(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
