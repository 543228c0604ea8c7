"""What a worker needs to hold captions against held-out images."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from jobs.labelling.layout import Layout, Shard
from jobs.labelling.specs import RunSpec, check_same
from jobs.storage import Storage
from mami_core.exemplars.watch import WatchedFile
from mami_core.images.ahead import threads
from mami_core.judging import Evidence, Neuron, Seen, TrustConfig
from mami_core.metrics import trust
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Foretold:
    """How well one text for each of a layer's units foretells it on the images that judge; NaN where it has none."""

    layer: str
    trust: list[float]
    auprc: list[float]
    beyond: list[float]
    """The same of what drives each unit more than the layer as a whole."""


def foretell(
    storage: Storage,
    config: Mapping[str, Any],
    subject: str,
    sources: Mapping[str, Mapping[Neuron, str]],
    scorer: Scorer,
) -> dict[str, list[Foretold]]:
    """What a judged run's held-out images say of any captions of a subject's neurons, shard by shard.

    Of captions of several sources, by name: what the images do to the neurons is read once for all of them.
    """
    layout = Layout.of(config)
    held_out = HeldOut(layout)
    found: dict[str, list[Foretold]] = {source: [] for source in sources}
    texts = list(dict.fromkeys(text for captions in sources.values() for text in captions.values()))
    places = {text: place for place, text in enumerate(texts)}
    vectors = fixed_point(scorer.read(texts))
    commons: dict[str, torch.Tensor] = {}
    for shard in layout.shards(subject):
        evidence = held_out.evidence(subject, shard, storage).part(choosing=False)
        # The units of a layer's first shard stand for the layer, however large it is.
        if shard.layer not in commons:
            commons[shard.layer] = trust.common(evidence.activations)
        for source, captions in sources.items():
            rows = [unit - shard.first for unit in range(shard.first, shard.end) if (shard.layer, unit) in captions]
            said = vectors[[places[captions[shard.layer, shard.first + row]] for row in rows]]
            beyond = trust.beyond(evidence.activations[rows], said, evidence.vectors, commons[shard.layer])
            own = evidence.trust(rows, said)
            numbers = {"trust": own.correlation, "auprc": own.auprc, "beyond": beyond}
            of_shard = Foretold(layer=shard.layer, **{name: column.tolist() for name, column in numbers.items()})
            found[source].append(of_shard)
    return found
