"""The report's first page: counts, distributions and the commonest words, from the labels of all parts."""

from collections import Counter
from collections.abc import Sequence
from importlib import resources
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.engine.items import Item, Output
from jobs.reporting.layout import BLOCK_COLUMNS, BLOCK_ROWS, GROUP, INDEX, OVERVIEW, SHEET
from jobs.reporting.neurons import script
from jobs.reporting.sources import Source
from jobs.storage import Storage
from mami_core.captions.vocabulary import tokenize
from mami_core.contracts import REGION_SIDE

_STEPS = 40
_MOST_WORDS, _MOST_CAPTIONS = 24, 5
_SAYING_NOTHING = frozenset(
    tokenize("a an and are at by for from in into is it its of often on or other some that the to with")
)


class Overview:
    """All parts → the overview, and the files that draw the report."""

    def __init__(self, sources: Sequence[Source], title: str) -> None:
        self.sources, self.title = sources, title

    def process(self, item: Item, storage: Storage) -> Output:
        """`index.html` comes last."""
        overview = {
            "title": self.title,
            "group": GROUP,
            "blocks": {"columns": BLOCK_COLUMNS, "rows": BLOCK_ROWS},
            "sheet": SHEET,
            "region_side": REGION_SIDE,
            "pictures": True,
            "sources": [_source(source) for source in self.sources],
        }
        objects = {f"site/{name}": data for name, data in site_files().items() if name != INDEX}
        objects |= {OVERVIEW: script("overview", overview), item.key: site_files()[INDEX]}
        return Output(objects, {"neurons": sum(source["neurons"] for source in overview["sources"])})


def site_files() -> dict[str, bytes]:
    """What draws the report, by name."""
    folder = resources.files("jobs.reporting") / "site"
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir(), key=lambda file: file.name)}


def _source(source: Source) -> dict[str, Any]:
    columns = ["caption", "score", "support", "trust", "trust_shuffled", "dead"]
    shards = source.shards
    parts = [source.labels(shard) for shard in shards]
    parts = [part.select([name for name in columns if name in part.column_names]) for part in parts]
    whole, dropped = pa.concat_tables(parts), source.dropped()
    ends = {name: _ends(whole, name) for name in ("score", "support", "trust")}
    layers = []
    for layer in source.layout.subjects[source.subject]:
        of_layer = [piece for piece, shard in enumerate(shards) if shard.layer == layer]
        said = _said(pa.concat_tables([parts[piece] for piece in of_layer]), ends)
        units = source.layout.units(source.subject, layer)
        numbers = {"units": len(units), "first_unit": units.start}
        layers.append({"name": layer, **numbers, "first_part": of_layer[0], **said})
    reasons = Counter(dropped["reason"].to_pylist()).most_common(_MOST_CAPTIONS)
    return {
        "name": source.name,
        "neurons": whole.num_rows,
        "images": source.layout.num_images,
        "dropped": {"count": dropped.num_rows, "reasons": reasons},
        "captioner": source.captioner_id,
        "run": source.run[:16],
        "notes": source.notes,
        "neurons_per_part": source.layout.neurons_per_item,
        "layers": layers,
        **_said(whole, ends),
    }


def _said(labels: pa.Table, ends: dict[str, tuple[float, float] | None]) -> dict[str, Any]:
    """What the labels of some neurons come to."""
    captions = Counter(labels["caption"].drop_null().to_pylist())
    words: Counter[str] = Counter()
    for caption, count in captions.items():
        for word in set(tokenize(caption)) - _SAYING_NOTHING:
            words[word] += count
    return {
        "dead": int(pc.sum(labels["dead"]).as_py() or 0),
        "distinct": len(captions),
        "captions": captions.most_common(_MOST_CAPTIONS),
        "words": words.most_common(_MOST_WORDS),
        **{name: _distribution(labels, name, between) for name, between in ends.items()},
        "shuffled": _median(labels, "trust_shuffled"),
    }


def _values(labels: pa.Table, name: str) -> np.ndarray:
    if name not in labels.column_names:
        return np.zeros(0)
    values = labels[name].drop_null().to_numpy().astype(np.float64)
    return values[np.isfinite(values)]


def _median(labels: pa.Table, name: str) -> float | None:
    values = _values(labels, name)
    return round(float(np.median(values)), 4) if len(values) else None


def _ends(labels: pa.Table, name: str) -> tuple[float, float] | None:
    """Where the plots of a source begin and end, so that those of its layers compare."""
    values = _values(labels, name)
    if not len(values):
        return None
    low, high = float(values.min()), float(values.max())
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _distribution(labels: pa.Table, name: str, between: tuple[float, float] | None) -> dict[str, Any] | None:
    values = _values(labels, name)
    if between is None or not len(values):
        return None
    counts, _ = np.histogram(values, bins=_STEPS, range=between)
    median = round(float(np.median(values)), 4)
    return {"low": round(between[0], 4), "high": round(between[1], 4), "median": median, "counts": counts.tolist()}
