"""What a worker needs to hold captions against held-out images."""

import functools
from collections.abc import Mapping
from typing import Any

import torch

from jobs.labelling.layout import Layout, Shard
from jobs.labelling.specs import RunSpec, check_same
from jobs.storage import Storage
from mami_core.exemplars.watch import WatchedFile
from mami_core.images.ahead import threads
from mami_core.judging import Evidence, Seen, TrustConfig
from mami_core.metrics.scorers import Scorer, load_scorer
from mami_core.metrics.trust import fixed_point

_READERS = 8
"""Objects that a worker reads at the same time."""


class HeldOut:
    """What a run knows of its held-out images: what the scorer saw in them, and what they do to the neurons."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._seen: Seen | None = None

    def evidence(self, subject: str, shard: Shard, storage: Storage) -> Evidence:
        """What every image chunk knows of one shard's units."""
        layout = self._layout
        with threads(_READERS, name="read") as pool:
            if self._seen is None:
                parts = pool.map(lambda chunk: storage.read(layout.seen_key(chunk)), range(layout.num_chunks))
                self._seen = Seen.joined([Seen.from_bytes(data) for data in parts])
            keys = [layout.watched_key(subject, chunk) for chunk in range(layout.num_chunks)]
            watched = list(pool.map(lambda key: _watched(key, shard, storage), keys))
        images, activations = zip(*watched, strict=True)
        return Evidence.of(torch.cat(images), torch.cat(activations, dim=1), self._seen)


def _watched(key: str, shard: Shard, storage: Storage) -> tuple[torch.Tensor, torch.Tensor]:
    def read(start: int, size: int) -> bytes:
        return storage.read(key, start, size)

    file = WatchedFile.open(read)
    return file.images, file.load(read, shard.layer, shard.row, shard.row + shard.end - shard.first)


class Judges(HeldOut):
    """What a worker of a judged run needs: all that, and the scorer itself."""

    def __init__(self, spec: RunSpec) -> None:
        super().__init__(spec.layout)
        assert spec.config.trust is not None, "only judged runs have judges"
        self.config: TrustConfig = spec.config.trust
        self._spec = spec

    @functools.cached_property
    def scorer(self) -> Scorer:
        """Who judges."""
        assert self._spec.scorer is not None
        scorer = load_scorer(self._spec.scorer.name)
        check_same("scorer", scorer.name, self._spec.scorer.known_as)
        return scorer.to(self._spec.device)


def trust_of_constant(
    storage: Storage, config: Mapping[str, Any], subject: str, text: str, scorer: Scorer
) -> list[float]:
    """The trust that one text has, said of every unit of a judged run's subject: what captions have to beat."""
    layout = Layout.of(config)
    held_out, texts = HeldOut(layout), fixed_point(scorer.read([text]))
    found: list[float] = []
    for shard in layout.shards(subject):
        rows = range(shard.end - shard.first)
        evidence = held_out.evidence(subject, shard, storage).part(choosing=False)
        found += evidence.trust(rows, texts.expand(len(rows), -1)).correlation.tolist()
    return found
