"""The stages that judge: what a scorer sees in the held-out images, and how far each label can be trusted."""

from collections.abc import Iterable

import pyarrow as pa

from jobs.engine.items import Item, Output
from jobs.labelling.stages import Stage
from jobs.labelling.telling import Telling
from jobs.storage import Storage
from mami_core import contracts, judging
from mami_core.images.ahead import threads

_READERS = 8
_NAMING = ["layer", "unit", "caption"]


class SeeImages(Stage):
    """An image chunk → what the scorer sees in its held-out images."""

    SEES = False

    def process(self, item: Item, storage: Storage) -> Output:
        """Each image passes the scorer once, for all neurons of all subjects."""
        config = self.networks.judges.config
        _, held_out = judging.part(self.images(item.payload["piece"], storage), config)
        seen = judging.see_images(
            self.networks.judges.scorer,
            held_out,
            storage,
            config,
            batch_size=self.spec.config.search.batch_size,
            decoder=Telling(self.spec.decoder),
        )
        return Output(seen.to_bytes(), {"images": len(seen.images)})


class JudgeUnits(Stage):
    """A range of units → their labels with the trust in them."""

    SEES = False

    def process(self, item: Item, storage: Storage) -> Output:
        """Reads the range's activations from every image chunk, and all captions of its layer."""
        subject = item.payload["subject"]
        shard = self.layout.shards(subject)[item.payload["piece"]]
        labels = _captions(storage, self.layout.captions_key(subject, shard))
        table = judging.judge_labels(
            labels,
            judging.captions_of(self._of_layer(subject, shard.layer, storage)),
            self.networks.judges.evidence(subject, shard, storage),
            self.networks.judges.scorer,
        )
        judged = table.num_rows - table["trust"].null_count
        return Output(contracts.to_parquet(table, contracts.LABELS), {"neurons": table.num_rows, "judged": judged})

    def _of_layer(self, subject: str, layer: str, storage: Storage) -> pa.Table:
        keys = [self.layout.captions_key(subject, each) for each in self.layout.shards(subject) if each.layer == layer]
        with threads(_READERS, name="read") as pool:
            parts: Iterable[pa.Table] = pool.map(lambda key: _captions(storage, key, _NAMING), keys)
            return pa.concat_tables(parts)


def _captions(storage: Storage, key: str, columns: list[str] | None = None) -> pa.Table:
    return contracts.read_labels(storage.read(key), where=key, columns=columns)
