"""A finished run's neurons captioned twice more, from one half of their exemplars each: how far do the two agree?"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from jobs.engine.plan import read_manifest
from jobs.engine.progress import Progress
from jobs.labelling.layout import Layout
from jobs.labelling.stages import features_of
from jobs.storage import Storage, redact, storage_for
from jobs.storage.networks import load_captioner
from mami_core import contracts
from mami_core.captions.decode import DecodeConfig
from mami_core.errors import ConfigError
from mami_core.exemplars.search import SearchConfig
from mami_core.learning.checkpoint import Trained
from mami_core.pipeline import LabelConfig, caption_neurons


@dataclass(frozen=True, slots=True, kw_only=True)
class Halves:
    """A finished run whose exemplars are captioned again, and who captions them."""

    storage: Storage
    config: Mapping[str, Any]
    """The run's."""
    trained: Trained
    most: int
    """Of so many neurons, taken evenly from those with two exemplars or more."""

    @staticmethod
    def of(labels: str, captioner: str, *, most: int) -> "Halves":
        """The run in this folder and its captioner, each local or `s3://`.

        Raises:
            IncompleteRunError: the run is not finished.
            ConfigError: it is no labelling run, was captioned by another captioner, or its features are gone.
        """
        storage, trained = storage_for(labels), load_captioner(captioner)
        config = read_manifest(storage).config
        if "subjects" not in config:
            raise ConfigError(f"{redact(labels)} holds no labelling run, which --halves needs; leave it out.")
        if trained.id != config["captioner"]["id"]:
            raise ConfigError(
                f"{redact(labels)} was captioned by {config['captioner']['id']}, and {redact(captioner)} is "
                f"{trained.id}: give the run's captioner as --captioner, or leave --halves out."
            )
        if not storage.find("_work/features"):
            raise ConfigError(f"{redact(labels)}: its _work/features is gone, which --halves needs; leave it out.")
        return Halves(storage=storage, config=config, trained=trained, most=most)

    def captions(self, subject: str, *, device: str) -> tuple[list[str], list[str]]:
        """By the exemplars of even and of odd rank (from 0), decoded as the run did: both about equally strong."""
        layout, trained = Layout.of(self.config), self.trained.to(device)
        search, decode = SearchConfig(k=self.config["search"]["k"]), DecodeConfig.identified(self.config["decode"])
        how = LabelConfig(search=search, decode=decode)
        found: tuple[list[str], list[str]] = ([], [])
        chosen = _some(self.storage, layout, subject, self.most)
        with Progress("halves", total=sum(part.num_rows for _, part in chosen), things="neurons") as progress:
            for piece, exemplars in chosen:
                num_features = trained.captioner.config.num_features
                features = features_of(layout, subject, piece, num_features, self.storage)
                for half, captions in enumerate(found):
                    table = caption_neurons(trained, *half_of(exemplars, features, half), how, run="")
                    captions += table["caption"].to_pylist()
                progress.done += exemplars.num_rows
        return found


def _some(storage: Storage, layout: Layout, subject: str, most: int) -> list[tuple[int, pa.Table]]:
    """The exemplars of at most so many neurons that have several, shard by shard."""
    tables = []
    for shard in layout.shards(subject):
        key = layout.exemplars_key(subject, shard)
        table = contracts.from_parquet(storage.read(key), contracts.EXEMPLARS, where=redact(storage.locate(key)))
        tables.append(table.filter(pc.greater(pc.list_value_length(table["images"]), 1)))
    step = max(1, -(-sum(table.num_rows for table in tables) // most))
    chosen, start = [], 0
    for piece, table in enumerate(tables):
        rows = [row for row in range(table.num_rows) if (start + row) % step == 0]
        start += table.num_rows
        if rows:
            chosen.append((piece, table.take(rows)))
    return chosen


def half_of(exemplars: pa.Table, features: pa.Table, half: int) -> tuple[pa.Table, pa.Table]:
    """Every other exemplar of these neurons, from the strongest (0) or the second (1), with its features."""
    rows = exemplars.to_pylist()
    for row in rows:
        for name in ("images", "keys", "activations"):
            row[name] = row[name][half::2]
    ours: dict[str, set[int]] = {}
    for row in rows:
        ours.setdefault(row["layer"], set()).add(row["unit"])
    ranks = features["rank"].to_pylist()
    of = zip(features["layer"].to_pylist(), features["unit"].to_pylist(), ranks, strict=True)
    places = [place for place, (layer, unit, rank) in enumerate(of) if rank % 2 == half and unit in ours.get(layer, ())]
    field = features.schema.get_field_index("rank")
    kept = features.take(places).set_column(
        field, features.schema.field(field), pa.array([ranks[place] // 2 for place in places], pa.int16())
    )
    return contracts.from_rows(rows, contracts.EXEMPLARS), kept
