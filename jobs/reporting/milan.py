"""A finished run as MILAN's folders of exemplars, which its scripts and `mami_core.learning.milan_folder` read.

Photographs are decoded anew, each once, into arrays that lie on the disk. Masks are the regions that the run keeps, on
its grid of 56 cells, enlarged; or drawn anew on 224 cells, which takes the network. Units that are active nowhere are
left out; where a unit has fewer exemplars than others, black pictures with empty masks, the number −1 and no activation
(nan) fill its row.
"""

import html
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from PIL import Image

from jobs.engine.plan import find_plan
from jobs.labelling.specs import check_same
from jobs.labelling.subjects_file import subjects_of
from jobs.reporting.sources import Source, image_rows, images_shown
from jobs.storage import safe_name
from mami_core import contracts
from mami_core.errors import ConfigError, ImageError, MissingObjectError
from mami_core.exemplars.redraw import Regions, redraw
from mami_core.exemplars.region import milan_regions, regions
from mami_core.images import InThreads
from mami_core.labels import unpack_regions
from mami_core.learning.milan_folder import descriptions_file
from mami_core.subjects import Subject, lean

Masks = Literal["stored", "mami", "milan"]

_SIDE = 224
_DRAW = {"mami": regions, "milan": milan_regions}
_OUTSIDE = 0.25
"""How bright MILAN's pictures for people are outside the region."""


class _Layer:
    """One layer's arrays on the disk, and where in them each image goes."""

    def __init__(self, folder: Path, rows: list[dict], k: int) -> None:
        self.folder, self.units = folder, [row["unit"] for row in rows]
        self.counts = [len(row["images"]) for row in rows]
        folder.mkdir(parents=True, exist_ok=True)
        self.images = _create(folder / "images.npy", (len(rows), k, 3, _SIDE, _SIDE))
        self.masks = _create(folder / "masks.npy", (len(rows), k, 1, _SIDE, _SIDE))
        self.places: dict[int, list[tuple[int, int]]] = {}
        activations, ids = np.full((len(rows), k), np.nan), np.full((len(rows), k), -1)
        for number, row in enumerate(rows):
            count = len(row["images"])
            activations[number, :count], ids[number, :count] = row["activations"], row["images"]
            for rank, image in enumerate(row["images"]):
                self.places.setdefault(image, []).append((number, rank))
        np.save(folder / "units.npy", np.array(self.units))
        np.savetxt(folder / "activations.csv", activations, delimiter=",", fmt="%.5e")
        np.savetxt(folder / "ids.csv", ids, delimiter=",", fmt="%i")

    def enlarge(self, stored: list[list[bytes]]) -> None:
        """Masks from the units' stored regions: each cell becomes 4 × 4."""
        scale = _SIDE // contracts.REGION_SIDE
        for number, packed in enumerate(stored):
            self.masks[number, : len(packed), 0] = unpack_regions(packed).repeat(scale, 1).repeat(scale, 2)

    def put(self, image: int, pixels: np.ndarray, *, viz: bool) -> None:
        """The image at all of its places."""
        for number, rank in self.places.get(image, ()):
            self.images[number, rank] = pixels
            if viz:
                shown = pixels * np.where(self.masks[number, rank] > 0, 1, _OUTSIDE)
                Image.fromarray(shown.astype(np.uint8).transpose(1, 2, 0)).save(self._viz(number) / f"image_{rank}.png")

    def write_pages(self, captions: Mapping[int, str]) -> None:
        """Beside each unit's pictures a page that shows them all, as MILAN leaves one."""
        for number, unit in enumerate(self.units):
            title = html.escape(f"{self.folder.name}, unit {unit}: {captions[unit]}")
            names = [f"image_{rank}" for rank in range(self.counts[number])]  # an earlier export may have left more
            pictures = "\n".join(f'<img src="{name}.png" alt="{name}">' for name in names)
            page = f'<!DOCTYPE html>\n<meta charset="utf-8">\n<title>{title}</title>\n<h3>{title}</h3>\n{pictures}\n'
            (self._viz(number) / "+lightbox.html").write_text(page, encoding="utf-8")

    def _viz(self, number: int) -> Path:
        place = self.folder / "viz" / f"unit_{number}"
        place.mkdir(parents=True, exist_ok=True)
        return place


def write_exemplars(source: Source, folder: Path, *, viz: bool = False, masks: Masks = "stored") -> int:
    """Write every layer's exemplars and `descriptions.csv`; how many neurons there are.

    `viz` adds MILAN's pictures for people. `masks` may be drawn anew, in this project's way or in MILAN's.

    Raises:
        ConfigError: they are to be, and the run's network cannot be had.
    """
    plan = {} if masks == "stored" else _plan_of(source)
    subject = _subject_of(source, plan) if plan else None
    captions: dict[tuple[str, int], str] = {}
    layers, tables = [], []
    for layer in dict.fromkeys(shard.layer for shard in source.shards):
        shards = [shard for shard in source.shards if shard.layer == layer]
        exemplars = pa.concat_tables(source.exemplars(shard) for shard in shards)
        alive = [bool(images) for images in exemplars["images"].to_pylist()]
        if any(alive):
            tables.append(exemplars.filter(pa.array(alive)))
            layers.append(_Layer(folder / safe_name(layer), tables[-1].to_pylist(), source.k))
            if subject is None:
                stored = [packed for shard in shards for packed in source.regions(shard)["regions"].to_pylist()]
                layers[-1].enlarge([packed for packed in stored if packed])
        for shard in shards:
            table = source.labels(shard).select(["unit", "caption"])
            captions |= {
                (layer, row["unit"]): row["caption"] for row in table.to_pylist() if row["caption"] is not None
            }
    images = image_rows(source, images_shown([source]))
    if subject is not None and tables:
        settings = {"draw": _DRAW[masks], "size": _SIDE, "batch_size": plan["search"]["batch_size"]}
        _draw(layers, redraw(subject, pa.concat_tables(tables), images, source.storage, **settings))
    for image, pixels in _photographs(images, source):
        for layer in layers:
            layer.put(image, pixels, viz=viz)
    (folder / "descriptions.csv").write_bytes(descriptions_file(captions))
    for layer, table in zip(layers, tables, strict=True) if viz else ():
        name = table["layer"][0].as_py()
        layer.write_pages({unit: captions[name, unit] for unit in layer.units})
    return len(captions)


def _subject_of(source: Source, plan: dict) -> Subject:
    """The network that the run explained, as its run.json says."""
    try:
        config = json.loads(source.storage.read("run.json"))["config"]
        spec = next(spec for spec in subjects_of(config) if spec.id == source.subject)
    except (MissingObjectError, ValueError, LookupError, TypeError, StopIteration) as error:
        raise ConfigError(
            f"{source.subject}: masks are drawn anew by the network, and the run's run.json does not say which it is."
        ) from error
    subject = spec.load()
    check_same(f"subject {source.subject}", subject.weights_id, plan["subjects"][source.subject]["weights"])
    return lean(subject, tuple(source.layout.subjects[source.subject]), precision=plan.get("precision", "float32"))


def _plan_of(source: Source) -> dict:
    plan = find_plan(source.storage)
    assert plan is not None, "a source is a finished run"
    return dict(plan.config)


def _draw(layers: list[_Layer], masks: Iterable[Regions]) -> None:
    places = [(layer, number) for layer in layers for number in range(len(layer.units))]
    for found in masks:
        for row, rank, mask in zip(found.rows.tolist(), found.ranks.tolist(), found.masks, strict=True):
            layer, number = places[row]
            layer.masks[number, rank, 0] = mask


def _photographs(rows: pa.Table, source: Source) -> Iterator[tuple[int, np.ndarray]]:
    decoded = InThreads(2)(rows, source.storage, sizes=(_SIDE,), crop=source.crop, batch_size=16)
    for image, squares in decoded:
        if isinstance(squares, ImageError):
            raise ImageError(f"image {image} could be read when the run was made, but now: {squares}")
        yield image, squares[0].numpy()


def _create(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
