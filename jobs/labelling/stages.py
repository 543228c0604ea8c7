"""The stages of a labelling run, but for those that judge (`trust_stages`): for each the worker that works its items.

Every worker calls the functions of `mami_core.pipeline` on its piece of the images or of the units. What the pieces
are, and where they lie, is said in `jobs.labelling.layout`.
"""

import functools
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
import torch

from jobs.engine.items import Item, Output
from jobs.engine.kept import one_at_a_time
from jobs.engine.within import tell
from jobs.labelling.layout import DROPPED, IMAGES, Layout, Shard
from jobs.labelling.networks import Networks
from jobs.labelling.telling import Telling
from jobs.storage import Storage, storage_for
from mami_core import contracts, judging, pipeline
from mami_core.errors import ImageSourceError
from mami_core.exemplars.states import LayerLayout, LayerState, read_layout, save_states
from mami_core.exemplars.table import exemplars_table
from mami_core.exemplars.watch import Watched, save_watched
from mami_core.images import Decoder
from mami_core.images.ahead import ahead, threads
from mami_core.images.latents import read_latents
from mami_core.regroup import regions_table, rows_of_ranges
from mami_core.subjects import Subject

_READERS = 8
"""Objects that a worker reads at the same time: an object store answers late, but many at once."""


class Stage:
    """What the workers share: the run's description, and the networks that a worker keeps from stage to stage."""

    SEES = True
    """Whether subject or encoder are needed here or later."""

    def __init__(self, networks: Networks) -> None:
        self.networks, self.spec, self.layout = networks, networks.spec, networks.spec.layout
        if not self.SEES:
            networks.let_go()

    def images(self, chunk: int, storage: Storage) -> pa.Table:
        """The rows of one image chunk."""
        return _row_group(storage, IMAGES, contracts.IMAGES, chunk)

    def exemplars_of(self, subject: str, shard: Shard, storage: Storage) -> pa.Table:
        """The exemplars of one shard."""
        key = self.layout.exemplars_key(subject, shard)
        return contracts.from_parquet(storage.read(key), contracts.EXEMPLARS, where=key)


def _row_group(storage: Storage, key: str, schema: pa.Schema, number: int) -> pa.Table:
    with storage.open(key) as file:
        return contracts.open_parquet(file, schema, where=key).read_row_group(number)


class GenerateImages(Stage):
    """A chunk of latents → the images that the generator makes of them."""

    @functools.cached_property
    def made_by(self) -> tuple[Subject, torch.Tensor]:
        """The generator, and all latents."""
        (name,) = self.layout.subjects
        subject = self.networks.whole_subject(name).to(self.spec.device)
        return subject, read_latents(self.spec.latents, storage_for("."), subject.latent_shape)

    def process(self, item: Item, storage: Storage) -> Output:
        """Each latent passes the generator once; its image is kept without loss."""
        subject, latents = self.made_by
        first, end = self.layout.chunks()[item.payload["piece"]]
        batch_size = self.spec.config.search.batch_size
        made = pipeline.generate_images(subject, latents[first:end], first=first, batch_size=batch_size)
        return Output(contracts.to_parquet(made, contracts.GENERATED, compression="none"), {"images": end - first})


class SearchImages(Stage):
    """An image chunk → what it says of every unit, and the images that were left out."""

    def process(self, item: Item, storage: Storage) -> Output:
        """One pass over the chunk's images."""
        subject, chunk = item.payload["subject"], item.payload["piece"]
        images = self.images(chunk, storage)
        choosing, held_out = judging.part(images, self.spec.config.trust)
        decoder = Telling(self.spec.decoder, images.num_rows)
        states, dropped = pipeline.search_images(
            self.networks.subject(subject),
            tuple(self.layout.subjects[subject]),
            choosing,
            storage,
            self.spec.config.search,
            decoder=decoder,
        )
        objects = {item.key: save_states(states)}
        if self.layout.judged:
            watched, lost = self._watch(subject, held_out, storage, decoder)
            objects[self.layout.watched_key(subject, chunk)] = save_watched(watched)
            dropped = pa.concat_tables([dropped, lost])
        if dropped.num_rows:
            objects[self.layout.dropped_key(subject, chunk)] = contracts.to_parquet(dropped, contracts.DROPPED)
        return Output(objects, {"images": images.num_rows, "dropped": dropped.num_rows})

    def _watch(self, subject: str, held_out: pa.Table, storage: Storage, decoder: Decoder) -> tuple[Watched, pa.Table]:
        """What the held-out images do to every unit, and those of them that are dropped."""
        watched, dropped = judging.watch_images(
            self.networks.subject(subject),
            tuple(self.layout.subjects[subject]),
            held_out,
            storage,
            batch_size=self.spec.config.search.batch_size,
            decoder=decoder,
        )
        return watched, pipeline.dropped_images(subject, "trust", held_out, dropped)


class MergeUnits(Stage):
    """A range of units → their exemplars, merged from what every image chunk says of them."""

    def __init__(self, networks: Networks) -> None:
        super().__init__(networks)
        self._layouts: dict[str, dict[str, LayerLayout]] = {}
        self._keys: pa.ChunkedArray | None = None

    def process(self, item: Item, storage: Storage) -> Output:
        """Reads the range's bytes from every chunk's states."""
        subject = item.payload["subject"]
        shard = self.layout.shards(subject)[item.payload["piece"]]
        table = exemplars_table(
            subject,
            shard.layer,
            merged_states(self.layout, subject, shard, storage, self._layouts),
            self._image_keys(storage),
            quantile=self.spec.config.search.quantile,
            first_unit=shard.first,
        )
        return Output(contracts.to_parquet(table, contracts.EXEMPLARS), {"neurons": table.num_rows})

    def _image_keys(self, storage: Storage) -> pa.ChunkedArray:
        if self._keys is None:
            with storage.open(IMAGES) as file:
                self._keys = contracts.open_parquet(file, contracts.IMAGES, where=IMAGES).read(columns=["key"])["key"]
        return self._keys


def merged_states(
    layout: Layout, subject: str, shard: Shard, storage: Storage, known: dict[str, dict[str, LayerLayout]]
) -> LayerState:
    """What all image chunks together say of a range of units; `known` keeps where things lie in each chunk's file."""

    def load(key: str) -> LayerState:
        def read(start: int, size: int) -> bytes:
            return storage.read(key, start, size)

        if key not in known:
            known[key] = read_layout(read)
        return known[key][shard.layer].load(read, shard.row, shard.row + shard.end - shard.first)

    keys = [layout.states_key(subject, chunk) for chunk in range(layout.num_chunks)]
    with threads(_READERS, name="read") as pool:
        return functools.reduce(LayerState.merge, ahead(pool, load, keys, weight=lambda _: 1, limit=2 * _READERS))


class EncodeImages(Stage):
    """An image chunk → the features of all exemplars in it."""

    def __init__(self, networks: Networks) -> None:
        super().__init__(networks)
        self._exemplars = one_at_a_time(self._read_exemplars)

    def process(self, item: Item, storage: Storage) -> Output:
        """Each image of the chunk that is an exemplar of any neuron passes subject and encoder once."""
        subject = item.payload["subject"]
        images = self.images(item.payload["piece"], storage)
        features = pipeline.encode_images(
            self.networks.subject(subject),
            self.networks.encoder,
            self._exemplars(subject, storage),
            images,
            storage,
            batch_size=self.spec.config.search.batch_size,
            decoder=Telling(self.spec.decoder),
        )
        groups = list(self._by_shard(features, subject))
        # Vectors hardly compress, and plain bytes are read at the speed of memory.
        data = contracts.to_parquet(groups, features.schema, compression="none")
        num_images = len(features["image"].unique())
        return Output(data, {"images": num_images, "exemplars": features.num_rows})

    def _read_exemplars(self, subject: str, storage: Storage) -> pa.Table:
        with threads(_READERS, name="read") as pool:
            parts = pool.map(lambda shard: self.exemplars_of(subject, shard, storage), self.layout.shards(subject))
            # The images' names are most of it, and nobody needs them for a whole subject.
            return pa.concat_tables(part.drop_columns("keys") for part in parts)

    def _by_shard(self, features: pa.Table, subject: str) -> Iterator[pa.Table]:
        """The table is in the order of the shards: each is one slice of it."""
        start = 0
        ranges = [(shard.layer, shard.first, shard.end) for shard in self.layout.shards(subject)]
        for count in rows_of_ranges(features, ranges):
            yield features.slice(start, count)
            start += count
        assert start == features.num_rows, "every row belongs to a shard"


class CaptionUnits(Stage):
    """A range of units → their captions, from the features that every image chunk has for them."""

    SEES = False

    def process(self, item: Item, storage: Storage) -> Output:
        """Reads one row group of every chunk's features."""
        subject, piece = item.payload["subject"], item.payload["piece"]
        shard = self.layout.shards(subject)[piece]
        exemplars = self.exemplars_of(subject, shard, storage)
        trained = self.networks.trained
        features = features_of(self.layout, subject, piece, trained.captioner.config.num_features, storage)
        table = pipeline.caption_neurons(
            trained,
            exemplars,
            features,
            self.spec.config,
            run=self.spec.run,
            weights=self.spec.weights[subject],
            told=lambda count: tell("neurons", count, of=exemplars.num_rows),
        )
        if self.spec.config.trust is not None and self.spec.config.trust.rerank:
            judges = self.networks.judges
            table = judging.rerank_labels(table, judges.evidence(subject, shard, storage), judges.scorer)
        regions = regions_table(exemplars, features)
        objects = {
            self.layout.regions_key(subject, shard): contracts.to_parquet(regions, contracts.REGIONS),
            item.key: contracts.to_parquet(table, contracts.LABELS),
        }
        dead = int(pc.sum(table["dead"]).as_py())
        return Output(objects, {"neurons": table.num_rows, "dead": dead})


def features_of(layout: Layout, subject: str, piece: int, num_features: int, storage: Storage) -> pa.Table:
    """The features of all exemplars of one shard, from what every image chunk has for it."""
    schema = contracts.features_schema(num_features)
    keys = [layout.features_key(subject, chunk) for chunk in range(layout.num_chunks)]
    with threads(_READERS, name="read") as pool:
        return pa.concat_tables(pool.map(lambda key: _row_group(storage, key, schema, piece), keys))


def collect_dropped(storage: Storage, layout: Layout) -> None:
    """Writes the table of dropped rows, from what each image chunk left out.

    Raises:
        ImageSourceError: no image of a subject is left.
    """
    parts = [contracts.DROPPED.empty_table()]
    for subject in layout.subjects:
        found = storage.find(layout.dropped_folder(subject))
        of_subject = [
            contracts.from_parquet(storage.read(info.path), contracts.DROPPED, where=info.path) for info in found
        ]
        _check_some_left(subject, pa.concat_tables([parts[0], *of_subject]), layout.num_images)
        parts += of_subject
    storage.write(DROPPED, contracts.to_parquet(pa.concat_tables(parts), contracts.DROPPED))


def _check_some_left(subject: str, dropped: pa.Table, num_images: int) -> None:
    if dropped.num_rows == num_images:
        first = dropped.slice(0, 1).to_pylist()[0]
        raise ImageSourceError(
            f"None of the {num_images:,} images can be used for {subject}; the first is {first['name']}: "
            f"{first['reason']}. Give images that can be decoded."
        )
