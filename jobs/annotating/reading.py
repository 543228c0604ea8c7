"""Networks on the photographs → every unit's exemplars, and where it is active in them."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from safetensors.numpy import load

from jobs.annotating.photographs import packed, pixels_of
from jobs.annotating.spec import AnnotateSpec
from jobs.engine.items import Item, Output
from jobs.engine.kept import one_at_a_time
from jobs.storage import Storage, safe_name
from mami_core.exemplars.quantile import Histogram
from mami_core.learning.dissected.reading import exemplars_of, read_regions, read_units
from mami_core.learning.dissected.units import REGION
from mami_core.subjects import Subject

_UNSURE = 0.175
"""Noise on the class scores of each further draw of exemplars, in standard deviations: weaker classifiers than those
that teach choose such exemplars, and their units are to be named too. SqueezeNet's are as much of one class as
EfficientNet-Lite2's with a noise of 1.4."""
CLASS_DRAWS = 2
"""How many times exemplars of class scores are drawn from each part of the photographs."""


class _Reader:
    def __init__(self, spec: AnnotateSpec) -> None:
        self.spec = spec
        self.subject = one_at_a_time(self._load_subject)

    def _load_subject(self, name: str) -> Subject:
        return next(spec for spec in self.spec.subjects if spec.id == name).load().to(self.spec.device)


class ReadPeaks(_Reader):
    """A chunk of photographs → what it says of every unit of a subject."""

    def process(self, item: Item, storage: Storage) -> Output:
        """One pass for all layers."""
        name, chunk = item.payload["subject"], item.payload["chunk"]
        pixels = pixels_of(self.spec, chunk, storage)
        seen = read_units(self.subject(name), tuple(self.spec.layers[name]), pixels)
        tensors = {f"{layer}/peaks": of.peaks for layer, of in seen.items()}
        tensors |= {f"{layer}/counts": of.histogram.counts.cpu().numpy() for layer, of in seen.items()}
        return Output(packed(tensors), {"photographs": len(pixels)})


class FindExemplars:
    """A layer's peaks on all photographs → the exemplars and thresholds of its units."""

    def __init__(self, spec: AnnotateSpec) -> None:
        self.spec = spec

    def process(self, item: Item, storage: Storage) -> Output:
        """For every part of the photographs; of class scores in several draws each, with ever more noise."""
        name, layer = item.payload["subject"], item.payload["layer"]
        chunks, histogram = [], Histogram.empty(self.spec.layers[name][layer])
        for seen in _seen(self.spec, name, storage):
            counts = torch.from_numpy(seen[f"{layer}/counts"])
            histogram.merge(Histogram(counts, int(counts[:1].sum())))
            chunks.append(seen[f"{layer}/peaks"])
        peaks = np.concatenate(chunks)
        rng = np.random.default_rng((self.spec.seed, item.index))
        times = CLASS_DRAWS if item.payload["is_classes"] else 1
        draws = []
        for draw, inside in enumerate(part for part in _parts(self.spec) for _ in range(times)):
            noise = _UNSURE * draw if item.payload["is_classes"] else 0.0
            unsure = peaks if not noise else peaks + noise * peaks.std(0) * rng.standard_normal(peaks.shape)
            draws.append(exemplars_of(unsure.astype(np.float32), inside, self.spec.k))
        thresholds = histogram.quantile(self.spec.quantile).numpy()
        return Output(packed({"exemplars": np.stack(draws), "thresholds": thresholds}), {"units": peaks.shape[1]})


def _parts(spec: AnnotateSpec) -> list[np.ndarray]:
    """All photographs, then random halves, each beside its complement."""
    rng, found = np.random.default_rng(spec.seed), [np.ones(spec.num_photographs, bool)]
    while len(found) < spec.parts:
        half = rng.random(spec.num_photographs) < 0.5
        found += [half, ~half]
    return found[: spec.parts]


class ReadRegions(_Reader):
    """A chunk of photographs → where the units whose exemplars they are are active in them."""

    def process(self, item: Item, storage: Storage) -> Output:
        """Every pair of photograph and unit once, however many draws it is an exemplar in."""
        name, chunk = item.payload["subject"], item.payload["chunk"]
        first, end = self.spec.chunks()[chunk]
        wanted: dict[str, list[tuple[int, int]]] = {}
        thresholds = {}
        for layer in self.spec.layers[name]:
            found = load(storage.read(exemplars_key(name, layer)))
            exemplars = found["exemplars"]
            draws, units, ranks = np.nonzero((exemplars >= first) & (exemplars < end))
            pairs = np.unique(np.stack([exemplars[draws, units, ranks] - first, units], 1), axis=0)
            wanted[layer] = [(int(row), int(unit)) for row, unit in pairs]
            thresholds[layer] = torch.from_numpy(found["thresholds"])
        pixels = pixels_of(self.spec, chunk, storage)
        regions = read_regions(self.subject(name), pixels, wanted, thresholds)
        tensors = {f"{layer}/regions": of for layer, of in regions.items()}
        for layer, pairs in wanted.items():
            tensors[f"{layer}/pairs"] = np.array(pairs, np.int64).reshape(-1, 2) + np.array([first, 0])
        return Output(packed(tensors), {"regions": sum(map(len, wanted.values()))})


def exemplars_key(subject: str, layer: str) -> str:
    """Where a layer's exemplars and thresholds are."""
    return f"_work/exemplars/{safe_name(subject)}/{safe_name(layer)}.safetensors"


def draws_of(subject: str, layer: str, storage: Storage) -> np.ndarray:
    """A layer's exemplars in every draw, [draws, units, k]."""
    return load(storage.read(exemplars_key(subject, layer)))["exemplars"]


def peaks_of(spec: AnnotateSpec, subject: str, layer: str, storage: Storage) -> np.ndarray:
    """The peaks of a layer's units on all photographs, in half precision, [photographs, units]."""
    return np.concatenate([seen[f"{layer}/peaks"] for seen in _seen(spec, subject, storage)])


def _seen(spec: AnnotateSpec, subject: str, storage: Storage) -> Iterator[dict[str, np.ndarray]]:
    """What each chunk of photographs says of all units of a subject."""
    for chunk in range(len(spec.chunks())):
        yield load(storage.read(f"_work/peaks/{safe_name(subject)}/{spec.part(chunk)}.safetensors"))


def regions_of(spec: AnnotateSpec, subject: str, layer: str, storage: Storage) -> Callable[[np.ndarray], np.ndarray]:
    """Exemplars of a layer's units, [units, k] → their regions, packed as `units.Exemplars` has it."""
    pairs, regions = [], []
    for chunk in range(len(spec.chunks())):
        found = load(storage.read(f"_work/regions/{safe_name(subject)}/{spec.part(chunk)}.safetensors"))
        pairs.append(found[f"{layer}/pairs"])
        regions.append(found[f"{layer}/regions"])
    row_of = {tuple(pair): row for row, pair in enumerate(np.concatenate(pairs).tolist())}
    packed = np.concatenate([*regions, np.zeros((1, REGION**2 // 8), np.uint8)])

    def of(photographs: np.ndarray) -> np.ndarray:
        rows = [
            [row_of.get((photograph, unit), -1) for photograph in one] for unit, one in enumerate(photographs.tolist())
        ]
        return packed[np.array(rows)]

    return of
