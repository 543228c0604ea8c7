"""The features of annotated neurons: work items that compute them, or take them from a labelling run."""

from typing import Any

import pyarrow as pa

from jobs.engine.items import Item, Output, part_name
from jobs.engine.pool import PoolConfig
from jobs.engine.work import require_complete, run_stage
from jobs.storage import Storage, redact
from jobs.training.annotated import Source, features_of_run
from mami_core import contracts
from mami_core.features import EncoderConfig, load_encoder
from mami_core.learning.annotated_features import encode_annotated
from mami_core.learning.descriptions import AnnotatedNeurons, Neuron

_IMAGES_PER_ITEM = 256


def work_features(
    storage: Storage,
    source: Source,
    annotated: AnnotatedNeurons,
    encoder: EncoderConfig,
    num_features: int,
    *,
    num_gpus: float,
) -> list[Item]:
    """Makes the features of all exemplars, or takes them from the labelling run that has them; the items that do it."""
    if source.descriptions is None:
        items, worker, pool = feature_items(annotated.num_images), EncodeAnnotated, PoolConfig(num_gpus=num_gpus)
        args = {"source": source, "encoder": encoder, "device": "cuda" if num_gpus else "cpu"}
    else:
        _, paths = features_of_run(source.name)
        items = [feature_item(number, len(paths), {"path": path}) for number, path in enumerate(paths)]
        worker, pool, args = TakeFeatures, PoolConfig(), {"source": source, "num_features": num_features}
    require_complete(run_stage(storage, items, worker, args, pool=pool))
    return items


def feature_items(num_images: int) -> list[Item]:
    """Ranges of distinct images."""
    starts = range(0, num_images, _IMAGES_PER_ITEM)
    return [
        feature_item(number, len(starts), {"first": start, "end": min(start + _IMAGES_PER_ITEM, num_images)})
        for number, start in enumerate(starts)
    ]


def feature_item(number: int, count: int, payload: dict[str, Any]) -> Item:
    """One part of the features, made from what the payload names."""
    return Item("features", number, count, f"_work/features/{part_name(number, count)}.parquet", payload)


class EncodeAnnotated:
    """A range of distinct images → the features of all exemplars that show them."""

    def __init__(self, source: Source, encoder: EncoderConfig, device: str) -> None:
        self._annotated, self._device = source.open(), device
        self._encoder = load_encoder(encoder).to(device)

    def process(self, item: Item, storage: Storage) -> Output:
        """Each image passes the encoder once."""
        return self.encode(self._annotated, item)

    def encode(self, annotated: AnnotatedNeurons, item: Item) -> Output:
        """The features of these neurons' exemplars that show the item's images."""
        images = range(item.payload["first"], item.payload["end"])
        table = encode_annotated(annotated, self._encoder, images, device=self._device)
        data = contracts.to_parquet(table, table.schema, compression="none")
        return Output(data, {"images": len(images), "exemplars": table.num_rows})


class TakeFeatures:
    """A part of a labelling run's features → those of the described neurons."""

    def __init__(self, source: Source, num_features: int) -> None:
        self._neurons, self._schema = set(source.open().neurons), contracts.features_schema(num_features)

    def process(self, item: Item, storage: Storage) -> Output:
        """The part's rows of neurons that somebody described."""
        path = item.payload["path"]
        table = contracts.from_parquet(storage.read(path), self._schema, where=redact(path))
        names = zip(table["layer"].to_pylist(), table["unit"].to_pylist(), strict=True)
        chosen = table.filter(pa.array([Neuron(*name) in self._neurons for name in names], pa.bool_()))
        data = contracts.to_parquet(chosen, self._schema, compression="none")
        return Output(data, {"exemplars": chosen.num_rows})


def read_features(storage: Storage, keys: tuple[str, ...], num_features: int) -> pa.Table:
    """The features of all annotated neurons."""
    schema = contracts.features_schema(num_features)
    return pa.concat_tables(contracts.from_parquet(storage.read(key), schema, where=key) for key in keys)
