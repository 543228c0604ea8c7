"""The four stages of a labelling run, each as a list of work items and the worker that works them.

    exemplars/…  an image chunk → what it says of every unit       (`SearchImages`)
    merge/…      a range of units → their exemplars, from all chunks (`MergeUnits`)
    features/…   an image chunk → features of the exemplars in it   (`EncodeImages`)
    captions/…   a range of units → their labels                    (`CaptionUnits`)

Every worker calls the functions of `mami_core.pipeline` on its slice. Where things lie in a run folder is said here
and nowhere else.
"""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from jobs.items import Item, Output, part_name
from jobs.storage import Storage, safe_name, storage_for
from mami_core import contracts, pipeline
from mami_core.errors import MissingObjectError
from mami_core.exemplars.states import LayerLayout, LayerState, read_layout, save_states
from mami_core.exemplars.table import exemplars_table
from mami_core.features import Encoder, load_encoder
from mami_core.learning import checkpoint
from mami_core.learning.checkpoint import Trained
from mami_core.pipeline import LabelConfig
from mami_core.regroup import rows_of_ranges
from mami_core.subjects import Subject, load_subject

IMAGES = "_work/images.parquet"
DROPPED = "dropped/part-00000-of-00001.parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class SubjectSpec:
    """A subject by name, and what it takes to load it in another process."""

    name: str
    """As `mami_core.subjects.load_subject` takes it."""
    weights: str | None = None
    """A weights file, or one of torchvision's names; by default those that belong to the name."""
    input_size: int | None = None
    crop: float | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    layers: tuple[str, ...] = ()
    """Names or patterns of layers; by default the family's own choice."""

    def load(self) -> Subject:
        """The network, on the CPU."""
        return load_subject(
            self.name,
            weights=self.weights,
            input_size=self.input_size,
            crop=self.crop,
            mean=self.mean,
            std=self.std,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """What every worker of a run needs to know; small, since it is sent to each."""

    run: str
    """The run's fingerprint, shortened: what the labels table says."""
    subjects: tuple[SubjectSpec, ...]
    layers: tuple[dict[str, int], ...]
    """For every subject its layers, in network order, with their numbers of units."""
    num_images: int
    images_per_item: int
    neurons_per_item: int
    captioner: str
    """Folder or URL of the captioner's checkpoint."""
    config: LabelConfig
    device: str = "cpu"
    num_threads: int = 2
    """Threads that decode images beside each worker."""


# --- what lies where ---------------------------------------------------------------------------------------------


def chunks(spec: RunSpec) -> list[tuple[int, int]]:
    """The image chunks: first image and end."""
    starts = range(0, spec.num_images, spec.images_per_item)
    return [(start, min(start + spec.images_per_item, spec.num_images)) for start in starts]


@dataclass(frozen=True, slots=True)
class Shard:
    """A range of one layer's units: what one part of the exemplars and labels tables holds."""

    layer: str
    first: int
    end: int
    part: str
    """Its path below the subject's folder, without the ending."""


def shards(spec: RunSpec, subject: int) -> list[Shard]:
    """A subject's units, by layer, in ranges of the run's size."""
    found = []
    for layer, num_units in spec.layers[subject].items():
        starts = range(0, num_units, spec.neurons_per_item)
        found += [
            Shard(
                layer,
                start,
                min(start + spec.neurons_per_item, num_units),
                f"{safe_name(layer)}/{part_name(number, len(starts))}",
            )
            for number, start in enumerate(starts)
        ]
    return found


def table_key(table: str, spec: RunSpec, subject: int, shard: Shard) -> str:
    """Where a part of the "labels" or the "exemplars" table is."""
    return f"{table}/{safe_name(spec.subjects[subject].name)}/{shard.part}.parquet"


def states_key(spec: RunSpec, subject: int, chunk: int) -> str:
    """What an image chunk says of every unit."""
    return f"{_work(spec, subject, 'exemplars')}/{part_name(chunk, len(chunks(spec)))}.safetensors"


def dropped_folder(spec: RunSpec, subject: int) -> str:
    """Where the images that were left out are written down, chunk by chunk."""
    return _work(spec, subject, "dropped")


def features_key(spec: RunSpec, subject: int, chunk: int) -> str:
    """The features of all exemplars in an image chunk, one row group a shard."""
    return f"{_work(spec, subject, 'features')}/{part_name(chunk, len(chunks(spec)))}.parquet"


def _work(spec: RunSpec, subject: int, what: str) -> str:
    return f"_work/{what}/{safe_name(spec.subjects[subject].name)}"


def image_items(stage: str, spec: RunSpec) -> list[Item]:
    """One item an image chunk and subject, subject by subject: an actor then loads each only once."""
    key = {"exemplars": states_key, "features": features_key}[stage]
    places = [(subject, chunk) for subject in range(len(spec.subjects)) for chunk in range(len(chunks(spec)))]
    return [
        Item(stage, index, len(places), key(spec, subject, chunk), {"subject": subject, "chunk": chunk})
        for index, (subject, chunk) in enumerate(places)
    ]


def shard_items(stage: str, spec: RunSpec) -> list[Item]:
    """One item a shard and subject, subject by subject."""
    table = {"merge": "exemplars", "captions": "labels"}[stage]
    places = [
        (subject, number, shard)
        for subject in range(len(spec.subjects))
        for number, shard in enumerate(shards(spec, subject))
    ]
    return [
        Item(stage, index, len(places), table_key(table, spec, subject, shard), {"subject": subject, "shard": number})
        for index, (subject, number, shard) in enumerate(places)
    ]


def all_items(spec: RunSpec) -> list[list[Item]]:
    """Every stage's items, in the order of the stages."""
    return [
        image_items("exemplars", spec),
        shard_items("merge", spec),
        image_items("features", spec),
        shard_items("captions", spec),
    ]


def spec_of(config: Mapping[str, Any]) -> RunSpec:
    """What a plan says of its run's items: enough to name them, not to work them."""
    return RunSpec(
        run="",
        subjects=tuple(SubjectSpec(name=name) for name in config["subjects"]),
        layers=tuple(subject["layers"] for subject in config["subjects"].values()),
        num_images=config["images"]["count"],
        images_per_item=config["images_per_item"],
        neurons_per_item=config["neurons_per_item"],
        captioner="",
        config=LabelConfig(),
    )


# --- the workers -------------------------------------------------------------------------------------------------


class _Stage:
    """What the workers share: the run's description, and the networks, loaded when an item first needs them."""

    def __init__(self, spec: RunSpec) -> None:
        self.spec = spec
        # One at a time: a worker's memory must not grow with the number of subjects.
        self.subject = functools.lru_cache(maxsize=1)(self._load_subject)
        self.exemplars = functools.lru_cache(maxsize=1)(self._read_exemplars)

    def _load_subject(self, number: int) -> Subject:
        return self.spec.subjects[number].load().to(self.spec.device)

    @functools.cached_property
    def trained(self) -> Trained:
        return load_captioner(self.spec.captioner).to(self.spec.device)

    def images(self, chunk: int, storage: Storage) -> pa.Table:
        """The rows of one image chunk."""
        with storage.open(IMAGES) as file:
            return contracts.open_parquet(file, contracts.IMAGES, where=IMAGES).read_row_group(chunk)

    def exemplars_of(self, subject: int, shard: Shard, storage: Storage) -> pa.Table:
        """The exemplars of one shard."""
        key = table_key("exemplars", self.spec, subject, shard)
        return contracts.from_parquet(storage.read(key), contracts.EXEMPLARS, where=key)

    def _read_exemplars(self, subject: int, storage: Storage) -> pa.Table:
        return pa.concat_tables(self.exemplars_of(subject, shard, storage) for shard in shards(self.spec, subject))


class SearchImages(_Stage):
    """An image chunk → what it says of every unit, and the images that were left out."""

    def process(self, item: Item, storage: Storage) -> Output:
        """One pass over the chunk's images."""
        number, chunk = item.payload["subject"], item.payload["chunk"]
        images = self.images(chunk, storage)
        states, dropped = pipeline.search_images(
            self.subject(number),
            tuple(self.spec.layers[number]),
            images,
            storage,
            self.spec.config.search,
            num_threads=self.spec.num_threads,
        )
        objects = {item.key: save_states(states)}
        if dropped.num_rows:
            name = f"{dropped_folder(self.spec, number)}/{part_name(chunk, len(chunks(self.spec)))}.parquet"
            objects[name] = contracts.to_parquet(dropped, contracts.DROPPED)
        return Output(objects, {"images": images.num_rows, "dropped": dropped.num_rows})


class MergeUnits(_Stage):
    """A range of units → their exemplars, merged from what every image chunk says of them."""

    def __init__(self, spec: RunSpec) -> None:
        super().__init__(spec)
        self._layouts: dict[str, dict[str, LayerLayout]] = {}
        self._keys: pa.ChunkedArray | None = None

    def process(self, item: Item, storage: Storage) -> Output:
        """Reads the range's bytes from every chunk's states."""
        number = item.payload["subject"]
        shard = shards(self.spec, number)[item.payload["shard"]]
        states = (
            self._load(states_key(self.spec, number, chunk), shard, storage) for chunk in range(len(chunks(self.spec)))
        )
        table = exemplars_table(
            self.spec.subjects[number].name,
            shard.layer,
            functools.reduce(LayerState.merge, states),
            self._image_keys(storage),
            quantile=self.spec.config.search.quantile,
            first_unit=shard.first,
        )
        return Output(contracts.to_parquet(table, contracts.EXEMPLARS), {"neurons": table.num_rows})

    def _load(self, key: str, shard: Shard, storage: Storage) -> LayerState:
        def read(start: int, size: int) -> bytes:
            return storage.read(key, start, size)

        if key not in self._layouts:
            self._layouts[key] = read_layout(read)
        return self._layouts[key][shard.layer].load(read, shard.first, shard.end)

    def _image_keys(self, storage: Storage) -> pa.ChunkedArray:
        if self._keys is None:
            with storage.open(IMAGES) as file:
                self._keys = contracts.open_parquet(file, contracts.IMAGES, where=IMAGES).read(columns=["key"])["key"]
        return self._keys


class EncodeImages(_Stage):
    """An image chunk → the features of all exemplars in it."""

    @functools.cached_property
    def encoder(self) -> Encoder:
        """What the captioner was trained on."""
        return load_encoder(self.trained.encoder).to(self.spec.device)

    def process(self, item: Item, storage: Storage) -> Output:
        """Each image of the chunk that is an exemplar of any neuron passes subject and encoder once."""
        number = item.payload["subject"]
        features = pipeline.encode_images(
            self.subject(number),
            self.encoder,
            self.exemplars(number, storage),
            self.images(item.payload["chunk"], storage),
            storage,
            batch_size=self.spec.config.search.batch_size,
            num_threads=self.spec.num_threads,
        )
        groups = list(self._by_shard(features, number))
        # Vectors hardly compress, and plain bytes are read at the speed of memory.
        data = contracts.to_parquet(groups, features.schema, compression="none")
        num_images = len(features["image"].unique())
        return Output(data, {"images": num_images, "exemplars": features.num_rows})

    def _by_shard(self, features: pa.Table, subject: int) -> Iterator[pa.Table]:
        """The table is in the order of the shards: each is one slice of it."""
        start = 0
        for count in rows_of_ranges(
            features, [(shard.layer, shard.first, shard.end) for shard in shards(self.spec, subject)]
        ):
            yield features.slice(start, count)
            start += count
        assert start == features.num_rows, "every row belongs to a shard"


class CaptionUnits(_Stage):
    """A range of units → their labels, from the features that every image chunk has for them."""

    def process(self, item: Item, storage: Storage) -> Output:
        """Reads one row group of every chunk's features."""
        number = item.payload["subject"]
        shard = shards(self.spec, number)[item.payload["shard"]]
        schema = contracts.features_schema(self.trained.captioner.config.num_features)
        groups = [
            self._read_group(features_key(self.spec, number, chunk), item.payload["shard"], schema, storage)
            for chunk in range(len(chunks(self.spec)))
        ]
        table = pipeline.caption_neurons(
            self.trained,
            self.exemplars_of(number, shard, storage),
            pa.concat_tables(groups),
            self.spec.config,
            run=self.spec.run,
        )
        dead = int(pc.sum(table["dead"]).as_py())
        return Output(contracts.to_parquet(table, contracts.LABELS), {"neurons": table.num_rows, "dead": dead})

    @staticmethod
    def _read_group(key: str, group: int, schema: pa.Schema, storage: Storage) -> pa.Table:
        with storage.open(key) as file:
            return contracts.open_parquet(file, schema, where=key).read_row_group(group)


def load_captioner(url: str) -> Trained:
    """The captioner whose checkpoint is in this folder, local or `s3://`.

    Raises:
        CheckpointError: it cannot be restored.
    """
    storage = storage_for(url)
    files: dict[str, bytes] = {}
    for name in checkpoint.FILES:
        try:
            files[name] = storage.read(name)
        except MissingObjectError:
            continue  # the checkpoint says which of them it cannot do without
    return checkpoint.load(files)


# --- the end -----------------------------------------------------------------------------------------------------


def collect_dropped(storage: Storage, spec: RunSpec) -> None:
    """Writes the table of dropped rows, from what each image chunk left out."""
    parts = [
        contracts.from_parquet(storage.read(info.path), contracts.DROPPED, where=info.path)
        for subject in range(len(spec.subjects))
        for info in storage.find(dropped_folder(spec, subject))
    ]
    table = pa.concat_tables([contracts.DROPPED.empty_table(), *parts])
    storage.write(DROPPED, contracts.to_parquet(table, contracts.DROPPED))


def finished_keys(spec: RunSpec) -> list[str]:
    """Every file that a finished run promises."""
    places = [(subject, shard) for subject in range(len(spec.subjects)) for shard in shards(spec, subject)]
    tables = [table_key(table, spec, *place) for table in ("exemplars", "labels") for place in places]
    return [*tables, DROPPED]
