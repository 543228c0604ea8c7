"""What a worker needs to hold captions against held-out images."""

import functools

import torch

from jobs.labelling.layout import Shard
from jobs.labelling.specs import RunSpec, check_same
from jobs.storage import Storage
from mami_core.exemplars.watch import WatchedFile
from mami_core.images.ahead import threads
from mami_core.judging import Evidence, Seen, TrustConfig
from mami_core.metrics.scorers import Scorer, load_scorer

_READERS = 8
"""Objects that a worker reads at the same time."""


class Judges:
    """The scorer, what it saw in the held-out images, and what these do to the neurons."""

    def __init__(self, spec: RunSpec) -> None:
        assert spec.config.trust is not None, "only judged runs have judges"
        self.config: TrustConfig = spec.config.trust
        self._spec, self._layout = spec, spec.layout
        self._seen: Seen | None = None

    @functools.cached_property
    def scorer(self) -> Scorer:
        """Who judges."""
        assert self._spec.scorer is not None
        scorer = load_scorer(self._spec.scorer.name)
        check_same("scorer", scorer.name, self._spec.scorer.known_as)
        return scorer.to(self._spec.device)

    def evidence(self, subject: str, shard: Shard, storage: Storage) -> Evidence:
        """What every image chunk knows of one shard's units."""
        layout = self._layout
        with threads(_READERS, name="read") as pool:
            if self._seen is None:
                parts = pool.map(lambda chunk: storage.read(layout.seen_key(chunk)), range(layout.num_chunks))
                self._seen = Seen.joined([Seen.from_bytes(data) for data in parts])
            keys = [layout.watched_key(subject, chunk) for chunk in range(layout.num_chunks)]
            watched = list(pool.map(lambda key: self._watched(key, shard, storage), keys))
        images, activations = zip(*watched, strict=True)
        return Evidence.of(torch.cat(images), torch.cat(activations, dim=1), self._seen)

    def _watched(self, key: str, shard: Shard, storage: Storage) -> tuple[torch.Tensor, torch.Tensor]:
        def read(start: int, size: int) -> bytes:
            return storage.read(key, start, size)

        file = WatchedFile.open(read)
        return file.images, file.load(read, shard.layer, shard.first, shard.end)
