"""A folder of exemplars → captions: the pieces of the work, where each lies, and the workers.

exemplars   all neurons and their exemplars                       exemplars/SUBJECT/part-….parquet
features    a range of distinct images → features of exemplars    _work/features/part-….parquet
captions    a range of one layer's neurons → their labels         labels/SUBJECT/LAYER/part-….parquet
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.engine.items import Item, Output, part_name
from jobs.engine.within import tell
from jobs.storage import Storage, safe_name
from jobs.storage.networks import load_captioner, load_encoder
from jobs.training.annotated import Source
from jobs.training.features import EncodeAnnotated
from mami_core import contracts, pipeline
from mami_core.captions.decode import DecodeConfig
from mami_core.errors import ConfigError
from mami_core.exemplars.search import SearchConfig
from mami_core.learning.checkpoint import Trained
from mami_core.learning.descriptions import AnnotatedNeurons
from mami_core.pipeline import LabelConfig

_NEURONS_PER_ITEM = 1024


def exemplars_key(subject: str) -> str:
    """Where the exemplars table lies."""
    return f"exemplars/{safe_name(subject)}/{part_name(0, 1)}.parquet"


def caption_items(exemplars: pa.Table) -> list[Item]:
    """Ranges of rows of the exemplars table, each of one layer."""
    subject = exemplars["subject"][0].as_py()
    places, first = [], 0
    for layer in exemplars["layer"].unique().to_pylist():
        count = pc.sum(pc.equal(exemplars["layer"], layer)).as_py()
        starts = range(first, first + count, _NEURONS_PER_ITEM)
        for number, start in enumerate(starts):
            name = f"labels/{safe_name(subject)}/{safe_name(layer)}/{part_name(number, len(starts))}.parquet"
            places.append((name, {"first": start, "end": min(start + _NEURONS_PER_ITEM, first + count)}))
        first += count
    return [Item("captions", index, len(places), key, payload) for index, (key, payload) in enumerate(places)]


def captioner_at(url: str, expected: str) -> Trained:
    """The captioner at this place, which must be the one that the run was planned with.

    Raises:
        ConfigError: it is another one.
    """
    trained = load_captioner(url)
    if trained.id != expected:
        raise ConfigError(f"{url}: holds captioner {trained.id} here, and the run was planned with {expected}.")
    return trained


class EncodeExemplars(EncodeAnnotated):
    """A range of distinct images → the features of all exemplars that show them."""

    def __init__(self, source: Source, captioner: str, captioner_id: str, device: str, exemplars: str) -> None:
        self._source, self._device, self._exemplars = source, device, exemplars
        self._encoder = load_encoder(captioner_at(captioner, captioner_id)).to(device)
        self._opened: AnnotatedNeurons | None = None

    def process(self, item: Item, storage: Storage) -> Output:
        """Each image passes the encoder once. Images keep the numbers that the exemplars table gives them."""
        if self._opened is None:
            self._opened = self._source.open(images=_numbers(_table(storage, self._exemplars)))
        return self.encode(self._opened, item)


def _table(storage: Storage, key: str) -> pa.Table:
    return contracts.from_parquet(storage.read(key), contracts.EXEMPLARS, where=key)


def _numbers(exemplars: pa.Table) -> np.ndarray:
    """Image numbers [neurons, k], −1 where there is none."""
    shown = exemplars["images"].to_pylist()
    found = np.full((len(shown), max(map(len, shown))), -1, np.int64)
    for row, images in enumerate(shown):
        found[row, : len(images)] = images
    return found


class CaptionExemplars:
    """A range of neurons → their labels."""

    def __init__(
        self, captioner: str, captioner_id: str, device: str, exemplars: str, decode: DecodeConfig, run: str
    ) -> None:
        self._trained = captioner_at(captioner, captioner_id).to(device)
        self._exemplars, self._decode, self._run = exemplars, decode, run
        self._table: pa.Table | None = None

    def process(self, item: Item, storage: Storage) -> Output:
        """Reads what every range of images has for these neurons."""
        if self._table is None:
            self._table = _table(storage, self._exemplars)
        k = pc.max(pc.list_value_length(self._table["images"])).as_py()
        exemplars = self._table.slice(item.payload["first"], item.payload["end"] - item.payload["first"])
        labels = pipeline.caption_neurons(
            self._trained,
            exemplars,
            self._features_of(exemplars, storage),
            LabelConfig(search=SearchConfig(k=k), decode=self._decode),
            run=self._run,
            told=lambda count: tell("neurons", count, of=exemplars.num_rows),
        )
        return Output(contracts.to_parquet(labels, contracts.LABELS), {"neurons": labels.num_rows})

    def _features_of(self, exemplars: pa.Table, storage: Storage) -> pa.Table:
        schema = contracts.features_schema(self._trained.captioner.config.num_features)
        layer, units = exemplars["layer"][0], exemplars["unit"].combine_chunks()
        parts = []
        for info in storage.find("_work/features"):
            part = contracts.from_parquet(storage.read(info.path), schema, where=info.path)
            parts.append(part.filter(pc.and_(pc.equal(part["layer"], layer), pc.is_in(part["unit"], units))))
        return pa.concat_tables(parts)
