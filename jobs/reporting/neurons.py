"""A part of a run → what the pages show of its neurons: an index for the gallery, details and blocks by group."""

import functools
import json
import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from jobs.engine.items import Item, Output
from jobs.engine.within import tell
from jobs.reporting import readings
from jobs.reporting.layout import GROUP, Album, group_key, part_key
from jobs.reporting.outline import outline
from jobs.reporting.pictures import Tiles, blocks
from jobs.reporting.sources import Source
from jobs.storage import Storage
from mami_core.labels import unpack_regions


class Neurons:
    """A part of a source → its data."""

    def __init__(self, sources: Sequence[Source], albums: Sequence[Album]) -> None:
        self.sources = sources
        self._album_of = {source: album for album in albums for source in album.sources}
        self._tiles: dict[int, Tiles] = {}

    @functools.cached_property
    def _likeness(self) -> readings.Likeness:
        return readings.Likeness(self.sources)

    def process(self, item: Item, storage: Storage) -> Output:
        """The index last: where it is, the groups are."""
        number, piece = item.payload["source"], item.payload["piece"]
        source, tiles = self.sources[number], self._tiles_of(item.payload["source"], storage)
        shard = source.shards[piece]
        labels, exemplars = source.labels(shard), source.exemplars(shard)
        grids = [unpack_regions(row) for row in source.regions(shard)["regions"].to_pylist()]
        images = exemplars["images"].to_pylist()
        details = self._details(number, piece, labels, exemplars)
        for each, numbers, grid in zip(details, images, grids, strict=True):
            each["regions"] = [outline(region) for region in grid]
            each["photographs"] = [tiles.photograph(image) for image in numbers]
        objects = {}
        for group, start in enumerate(range(0, len(details), GROUP)):
            some, key = slice(start, start + GROUP), group_key(number, piece, group)
            objects[f"data/{key}.js"] = script(key, details[some])
            objects[f"data/{key}.webp"] = blocks(images[some], grids[some], tiles)
            tell("neurons", len(images[some]), of=len(images))
        objects[item.key] = script(part_key(number, piece), index_of(labels))
        return Output(objects, {"neurons": labels.num_rows})

    def _tiles_of(self, source: int, storage: Storage) -> Tiles:
        album = self._album_of[source]
        if album.number not in self._tiles:
            self._tiles = {album.number: Tiles(storage, album)}
        return self._tiles[album.number]

    def _details(self, number: int, piece: int, labels: pa.Table, exemplars: pa.Table) -> list[dict[str, Any]]:
        source = self.sources[number]
        shard = source.shards[piece]
        rows, nothing = labels.to_pylist(), [None] * labels.num_rows
        captions = [row["caption"] for row in rows]
        attention, nearest = nothing, [[] for _ in rows]
        if source.captioner is not None:
            attention = readings.attention(source, piece, exemplars, captions)
            layer = list(source.layout.subjects[source.subject]).index(shard.layer)
            nearest = self._likeness.nearest(number, layer, [row["unit"] for row in rows])
        counted = readings.histograms(source, piece) if source.has_states else nothing
        return [_detail(*each) for each in zip(rows, attention, nearest, counted, strict=True)]


_MORE = {"trust_auprc": "AUPRC", "trust_shuffled": "trust of another's caption"}
"""Further numbers of a label, where its run has them, and what they are called."""
_OF_BEAMS = ("score", "log_p_caption", "log_p_language", "support")


def _detail(row: dict[str, Any], attention: Any, nearest: list, counted: Any) -> dict[str, Any]:
    words, weights = attention or (None, None)
    return {
        "images": row["exemplar_images"],
        "activations": [_number(value) for value in row["exemplar_activations"]],
        "beams": [[beam["caption"], *(_number(beam[name]) for name in _OF_BEAMS)] for beam in row["beams"]],
        "threshold": _number(row["threshold"]),
        "active": _number(row["active_fraction"]),
        "more": [[name, _number(row[column])] for column, name in _MORE.items() if row.get(column) is not None],
        "words": words,
        "attention": weights,
        "histogram": counted,
        "nearest": nearest,
    }


def index_of(labels: pa.Table) -> dict[str, Any]:
    """What searching, filtering and sorting need, by column; each different caption once."""
    captions: dict[str, int] = {}
    rows = labels.select(["caption", "score", "support", "trust", "exemplar_activations"]).to_pylist()
    return {
        "caption": [
            -1 if row["caption"] is None else captions.setdefault(row["caption"], len(captions)) for row in rows
        ],
        "captions": list(captions),
        "score": [_number(row["score"]) for row in rows],
        **{name: _where_any([_number(row[name]) for row in rows]) for name in ("support", "trust")},
        "top": [_number(row["exemplar_activations"][0]) if row["exemplar_activations"] else None for row in rows],
    }


def _where_any(numbers: list[float | None]) -> list[float | None] | None:
    """None where there is none at all: the run has no such column."""
    return numbers if any(number is not None for number in numbers) else None


def _number(value: float | None) -> float | None:
    """Four digits, and nothing that JSON does not know."""
    return float(f"{value:.4g}") if value is not None and math.isfinite(value) else None


def script(key: str, value: Any) -> bytes:
    """A data file: a script, since a page from disk may run scripts but read no files. ASCII, whatever is in it."""
    return f"MAMI.put({json.dumps(key)},{json.dumps(value, separators=(',', ':'), allow_nan=False)});\n".encode()
