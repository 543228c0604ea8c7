"""What the captioner and the search saw in a part's neurons: attention, directions, histograms; and who is alike.

Axes: N neurons, K exemplars, L words, F features, D numbers of a direction.
"""

import functools
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Float16, Float32, Int64
from torch import Tensor

from jobs.engine.items import Item, Output
from jobs.labelling.stages import features_of, merged_states
from jobs.reporting.layout import vectors_key
from jobs.reporting.sources import Source
from jobs.storage import Storage
from jobs.storage.networks import load_captioner
from mami_core.captions import decode
from mami_core.exemplars.quantile import bin_edges
from mami_core.learning.checkpoint import Trained
from mami_core.regroup import assemble

DIRECTION = 256
"""Numbers of a direction: cosines of projected vectors are off by about 1/√256."""
NEAREST = 12
"""Similar neurons that are kept."""
_BINS_TOGETHER = 4  # half an octave
_QUERIES = 256  # neurons that are compared with all others at a time


@functools.lru_cache(maxsize=1)
def captioner(url: str) -> Trained:
    """The captioner, loaded once a process."""
    return load_captioner(url)


def _read(source: Source, piece: int, exemplars: pa.Table) -> tuple[Trained, Tensor, Tensor]:
    """The captioner, and the features of a part's exemplars, with which of them are there."""
    assert source.captioner is not None
    trained = captioner(source.captioner)
    width = trained.captioner.config.num_features
    features = features_of(source.layout, source.subject, piece, width, source.storage)
    return trained, *assemble(exemplars, features, source.k)


def attention(source: Source, piece: int, exemplars: pa.Table, captions: Sequence[str | None]) -> list[Any]:
    """For each neuron the words of its caption and their weights over its exemplars, in percent, as [L, K]."""
    trained, features, present = _read(source, piece, exemplars)
    said = [row for row, caption in enumerate(captions) if caption]
    found: list[Any] = [None] * len(captions)
    if not said:
        return found
    texts = [captions[row] or "" for row in said]
    weights = decode.attention(trained.captioner, features[said], present[said], texts)
    vocabulary = trained.captioner.vocabulary
    for row, text, of_neuron in zip(said, texts, weights, strict=True):
        shares = torch.stack(list(of_neuron.values())).mean(0)[:-1, : int(present[row].sum())]  # without the stop word
        words = [vocabulary.decode([number]) for number in vocabulary.encode(text, len(shares))]
        found[row] = words, (100 * shares).round().int().tolist()
    return found


# --- directions ---------------------------------------------------------------------------------------------------


class Directions:
    """A part's neurons → for each one direction: the mean of its exemplars' features, standardised and projected."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = sources

    def process(self, item: Item, storage: Storage) -> Output:
        """Float16, [N, D], of length 1; 0 for a dead neuron."""
        source, piece = self.sources[item.payload["source"]], item.payload["piece"]
        trained, features, present = _read(source, piece, source.exemplars(source.shards[piece]))
        network = trained.captioner
        standard = (features.float() - network.feature_mean) / network.feature_scale
        mean = (standard * present[..., None]).sum(1) / present.sum(1, keepdim=True).clamp(min=1)
        directions = torch.nn.functional.normalize(mean @ _projection(mean.shape[1]), dim=1)
        buffer = io.BytesIO()
        np.save(buffer, directions.half().numpy())
        return Output(buffer.getvalue(), {"neurons": len(directions)})


@functools.lru_cache(maxsize=1)
def _projection(num_features: int) -> Float32[Tensor, "features directions"]:
    """Random, and the same everywhere: cosines nearly stay (Johnson and Lindenstrauss, 1984)."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(num_features, DIRECTION, generator=generator) / DIRECTION**0.5


class Likeness:
    """The directions of every neuron of some sources; small enough to be held by every worker."""

    def __init__(self, sources: Sequence[Source]) -> None:
        parts, places = [], []
        for number, source in enumerate(sources):
            for piece, shard in enumerate(source.shards):
                if source.captioner is None:
                    continue
                parts.append(np.load(io.BytesIO(source.storage.read(vectors_key(source, piece)))))
                layer = list(source.layout.subjects[source.subject]).index(shard.layer)
                units = np.arange(shard.first, shard.end)
                places.append(np.stack([np.full_like(units, number), np.full_like(units, layer), units], 1))
        self._places: Int64[np.ndarray, "neurons 3"] = np.concatenate(places or [np.zeros((0, 3), np.int64)])
        stacked: Float16[np.ndarray, "neurons d"] = np.concatenate(parts or [np.zeros((0, DIRECTION), np.float16)])
        self._directions = torch.from_numpy(stacked)
        self._captioners = np.array([hash(source.captioner_id) for source in sources])

    def nearest(self, source: int, layer: int, units: Sequence[int]) -> list[list[list[Any]]]:
        """For each of these units the neurons most like it: source, layer, unit and cosine, the most alike first.

        Only neurons whose features the same encoder gave can be compared; a dead one is like nobody.
        """
        rows = self._rows(source, layer, units)
        if not len(rows):
            return [[] for _ in units]
        alike = torch.from_numpy(self._captioners[self._places[:, 0]] == self._captioners[source])
        found = []
        for some in torch.from_numpy(rows).split(_QUERIES):
            cosines = self._directions[some].float() @ self._directions.float().T
            cosines[:, ~alike] = -torch.inf
            cosines[torch.arange(len(some)), some] = -torch.inf
            values, best = cosines.topk(min(NEAREST, len(self._places)), dim=1)
            found += [self._named(*pair) for pair in zip(values, best, strict=True)]
        return found

    def _rows(self, source: int, layer: int, units: Sequence[int]) -> Int64[np.ndarray, " rows"]:
        of_layer = np.flatnonzero((self._places[:, 0] == source) & (self._places[:, 1] == layer))
        # A layer's rows are in the order of its units, which need not begin at 0.
        return of_layer[np.asarray(units) - self._places[of_layer[0], 2]] if len(of_layer) else of_layer

    def _named(self, cosines: Float[Tensor, " n"], rows: Int64[Tensor, " n"]) -> list[list[Any]]:
        return [
            [*self._places[row].tolist(), round(cosine, 3)]
            for cosine, row in zip(cosines.tolist(), rows.tolist(), strict=True)
            if cosine > 0  # a dead neuron has no direction: its cosine with any is 0
        ]


# --- histograms ---------------------------------------------------------------------------------------------------


def histograms(source: Source, piece: int) -> list[Any]:
    """How often each unit's activation lay in each half octave above zero, from the first to the last that it used."""
    state = merged_states(source.layout, source.subject, source.shards[piece], source.storage, {})
    edges = bin_edges()[::_BINS_TOGETHER].tolist()
    counts = torch.nn.functional.pad(state.histogram.counts[:, 1:], (0, 1)).unflatten(1, (-1, _BINS_TOGETHER)).sum(2)
    edges = [float(f"{edge:.4g}") for edge in edges]
    edges.append(2 * edges[-1])  # of the last one, which is open
    return [_used(row, edges) for row in counts.tolist()]


def _used(counts: list[int], edges: list[float]) -> dict[str, Any] | None:
    used = [place for place, count in enumerate(counts) if count]
    if not used:
        return None
    first, end = used[0], used[-1] + 1
    return {"edges": edges[first : end + 1], "counts": counts[first:end]}
