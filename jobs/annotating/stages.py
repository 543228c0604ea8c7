"""The stages that turn annotated photographs into annotated neurons: what each makes, and the workers that make it.

photographs   a chunk of photographs → pixels and concept maps     photographs/part-….npy, _work/maps/part-….safetensors
peaks         a chunk, for a subject → peaks and histograms        _work/peaks/SUBJECT/part-….safetensors
exemplars     a subject's layer → exemplars, from all chunks       _work/exemplars/SUBJECT/LAYER.safetensors
regions       a chunk, for a subject → regions of exemplars in it  _work/regions/SUBJECT/part-….safetensors
neurons       a subject's layer → annotated neurons                SUBJECT.LAYER[.HALF]/…, _work/said/…
concepts      some of the concept neurons                          concepts.NUMBER/…, _work/said/…
"""

import dataclasses
import functools
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import load, save

from jobs.annotating.spec import AnnotateSpec, all_photographs
from jobs.engine.items import Item, Output
from jobs.labelling.specs import SubjectSpec
from jobs.storage import Storage, safe_name
from mami_core.errors import DescriptionsError
from mami_core.exemplars.quantile import Histogram
from mami_core.learning.descriptions import Neuron, descriptions_csv
from mami_core.learning.dissected import (
    ConceptsConfig,
    ConceptTable,
    Exemplars,
    Finding,
    Lexicon,
    Locator,
    Photograph,
    Word,
    WordNet,
    Words,
    class_findings,
    concept_maps,
    concept_neurons,
    concept_table,
    descriptions,
    findings,
    square,
)
from mami_core.learning.dissected.locating import NUM_CLASSES
from mami_core.learning.dissected.maps import Cells
from mami_core.learning.dissected.pixels import GRID
from mami_core.learning.dissected.reading import exemplars_of, read_regions, read_units
from mami_core.learning.dissected.units import REGION
from mami_core.subjects import Subject, list_layers, match_layers

_UNSURE = 0.12
"""Noise on the class scores of each further part of the photographs, in standard deviations: weaker classifiers than
those that teach choose such exemplars, and their units are to be named too."""
SIDE = 8 * GRID
"""Side of the photographs that are kept, in pixels."""


class _Stage:
    def __init__(self, spec: AnnotateSpec) -> None:
        self.spec = spec

    @functools.cached_property
    def lexicon(self) -> Lexicon:
        return Lexicon(WordNet(self.spec.wordnet))

    @functools.cache  # noqa: B019  # a worker lives as long as its stage
    def subject(self, name: str) -> Subject:
        return next(spec for spec in self.spec.subjects if spec.id == name).load().to(self.spec.device)

    @functools.cache  # noqa: B019
    def table(self, storage: Storage) -> tuple[ConceptTable, Words]:
        """What all photographs show."""
        maps: list[dict[Word, Cells]] = []
        sources: list[str] = []
        for chunk in range(len(self.spec.chunks())):
            of_chunk, from_chunk = _unpacked_maps(storage.read(f"_work/maps/{self.spec.part(chunk)}.safetensors"))
            maps += of_chunk
            sources += from_chunk
        table = concept_table(maps, sources)
        return table, Words(table.words, table.areas * np.array([word.kind != "place" for word in table.words]))

    def peaks(self, subject: str, layer: str, storage: Storage) -> np.ndarray:
        """Of a layer's units on all photographs, in half precision."""
        names = [f"_work/peaks/{safe_name(subject)}/{self.spec.part(i)}" for i in range(len(self.spec.chunks()))]
        return np.concatenate([load(storage.read(f"{name}.safetensors"))[f"{layer}/peaks"] for name in names])


class ReadPhotographs(_Stage):
    """A chunk of photographs → their pixels, and where each word is true in them."""

    @functools.cached_property
    def photographs(self) -> tuple[Photograph, ...]:
        """All of the run."""
        return all_photographs(self.spec.sources, self.spec.held_out)

    @functools.cached_property
    def said(self) -> frozenset[str]:
        """Names that somebody gave a thing: what to look for in sentences."""
        return frozenset(
            name for photograph in self.photographs for one in photograph.annotations for name in one.names
        )

    @functools.cached_property
    def locator(self) -> Locator | None:
        """Loaded once."""
        if self.spec.locator is None:
            return None
        return Locator(SubjectSpec(name=self.spec.locator).load().to(self.spec.device))

    def process(self, item: Item, storage: Storage) -> Output:
        """Each photograph is decoded once. One that cannot be decoded fails the item, and is named."""
        first, end = self.spec.chunks()[item.index]
        chosen = self.photographs[first:end]
        pixels = np.zeros((len(chosen), 3, SIDE, SIDE), np.uint8)
        maps: list[dict[Word, Cells]] = []
        for row, photograph in enumerate(chosen):
            shown, size = _decoded(photograph.path)
            pixels[row] = shown.transpose(2, 0, 1)
            locate = self.locator.locate(pixels[row]) if self.locator else None
            maps.append(concept_maps(photograph, shown, size, self.lexicon, locate, self.said))
        packed = _packed_maps(maps, [photograph.source for photograph in chosen])
        objects = {f"_work/maps/{item.name}.safetensors": packed, item.key: _npy(pixels)}
        return Output(objects, {"photographs": len(chosen)})


def _decoded(path: Path) -> tuple[np.ndarray, tuple[int, int]]:
    try:
        with Image.open(path) as picture:
            return square(picture, SIDE), picture.size
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise DescriptionsError(f"{path}: expected a photograph, but it cannot be decoded: {error}") from error


class ReadPeaks(_Stage):
    """A chunk of photographs → what it says of every unit of a subject."""

    def process(self, item: Item, storage: Storage) -> Output:
        """One pass for all layers."""
        name, chunk = item.payload["subject"], item.payload["chunk"]
        pixels = np.load(io.BytesIO(storage.read(f"photographs/{self.spec.part(chunk)}.npy")), allow_pickle=False)
        seen = read_units(self.subject(name), tuple(self.spec.layers[name]), pixels)
        tensors = {f"{layer}/peaks": of.peaks for layer, of in seen.items()}
        tensors |= {f"{layer}/counts": of.histogram.counts.cpu().numpy() for layer, of in seen.items()}
        return Output(save(tensors), {"photographs": len(pixels)})


class FindExemplars(_Stage):
    """A layer's peaks on all photographs → the exemplars and thresholds of its units."""

    def process(self, item: Item, storage: Storage) -> Output:
        """For every part of the photographs."""
        name, layer = item.payload["subject"], item.payload["layer"]
        peaks = self.peaks(name, layer, storage)
        rng = np.random.default_rng((self.spec.seed, item.index))
        parts = []
        for part, inside in enumerate(_parts(self.spec)):
            noise = _UNSURE * part if item.payload["is_classes"] else 0.0
            seen = peaks if not noise else peaks + noise * peaks.std(0) * rng.standard_normal(peaks.shape)
            parts.append(exemplars_of(seen.astype(np.float32), inside, self.spec.k))
        histogram = Histogram.empty(peaks.shape[1])
        for chunk in range(len(self.spec.chunks())):
            key = f"_work/peaks/{safe_name(name)}/{self.spec.part(chunk)}.safetensors"
            counts = torch.from_numpy(load(storage.read(key))[f"{layer}/counts"])
            histogram.merge(Histogram(counts, int(counts[:1].sum())))
        thresholds = histogram.quantile(self.spec.quantile).numpy()
        return Output(save({"exemplars": np.stack(parts), "thresholds": thresholds}), {"units": peaks.shape[1]})


def _parts(spec: AnnotateSpec) -> list[np.ndarray]:
    """All photographs, then random halves, each beside its complement."""
    rng, found = np.random.default_rng(spec.seed), [np.ones(spec.num_photographs, bool)]
    while len(found) < spec.parts:
        half = rng.random(spec.num_photographs) < 0.5
        found += [half, ~half]
    return found[: spec.parts]


class ReadRegions(_Stage):
    """A chunk of photographs → where the units whose exemplars they are are active in them."""

    def process(self, item: Item, storage: Storage) -> Output:
        """Every pair of photograph and unit once, however many parts it is an exemplar in."""
        name, chunk = item.payload["subject"], item.payload["chunk"]
        first, end = self.spec.chunks()[chunk]
        wanted: dict[str, list[tuple[int, int]]] = {}
        thresholds = {}
        for layer in self.spec.layers[name]:
            found = load(storage.read(_exemplars_key(name, layer)))
            exemplars = found["exemplars"]
            parts, units, ranks = np.nonzero((exemplars >= first) & (exemplars < end))
            pairs = np.unique(np.stack([exemplars[parts, units, ranks] - first, units], 1), axis=0)
            wanted[layer] = [(int(row), int(unit)) for row, unit in pairs]
            thresholds[layer] = torch.from_numpy(found["thresholds"])
        pixels = np.load(io.BytesIO(storage.read(f"photographs/{self.spec.part(chunk)}.npy")), allow_pickle=False)
        regions = read_regions(self.subject(name), pixels, wanted, thresholds)
        tensors = {f"{layer}/regions": of for layer, of in regions.items()}
        for layer, pairs in wanted.items():
            tensors[f"{layer}/pairs"] = np.array(pairs, np.int64).reshape(-1, 2) + np.array([first, 0])
        return Output(save(tensors), {"regions": sum(map(len, wanted.values()))})


class DescribeUnits(_Stage):
    """A layer's exemplars → its annotated neurons; units of which nothing can be said are counted and left out."""

    def process(self, item: Item, storage: Storage) -> Output:
        """A layer of class scores is described by its classes."""
        name, layer = item.payload["subject"], item.payload["layer"]
        table, words = self.table(storage)
        all_parts = load(storage.read(_exemplars_key(name, layer)))["exemplars"]
        region_of = self._regions(name, layer, storage)
        peaks = self.peaks(name, layer, storage).astype(np.float32)
        objects: dict[str, bytes] = {}
        said, unsaid = {}, 0
        for part, photographs in enumerate(all_parts):
            exemplars = Exemplars(photographs, region_of(photographs))
            if item.payload["is_classes"]:
                found = class_findings(table, words, exemplars, self.lexicon, self.spec.demands)
            else:
                depth = item.payload["depth"]
                found = findings(table, words, exemplars, depth=depth, demands=self.spec.demands, peaks=peaks)
            where = self.spec.layer_name(name, layer, part)
            rng = np.random.default_rng((self.spec.seed, item.index, part))
            made, described = _neurons(where, exemplars, found, rng, self.spec)
            objects |= made
            said |= described
            unsaid += len(found) - len(described)
        objects[item.key] = descriptions_csv(said)
        return Output(objects, {"neurons": len(said), "units of which nothing can be said": unsaid})

    def _regions(self, name: str, layer: str, storage: Storage):  # noqa: ANN202
        pairs, regions = [], []
        for chunk in range(len(self.spec.chunks())):
            found = load(storage.read(f"_work/regions/{safe_name(name)}/{self.spec.part(chunk)}.safetensors"))
            pairs.append(found[f"{layer}/pairs"])
            regions.append(found[f"{layer}/regions"])
        row_of = {tuple(pair): row for row, pair in enumerate(np.concatenate(pairs).tolist())}
        packed = np.concatenate([*regions, np.zeros((1, REGION**2 // 8), np.uint8)])

        def of(photographs: np.ndarray) -> np.ndarray:
            rows = [
                [row_of.get((photograph, unit), -1) for photograph in one]
                for unit, one in enumerate(photographs.tolist())
            ]
            return packed[np.array(rows)]

        return of


class MakeConcepts(_Stage):
    """Some of the concept neurons."""

    def process(self, item: Item, storage: Storage) -> Output:
        """As many a word in every item, from a seed of its own."""
        table, words = self.table(storage)
        config = ConceptsConfig(
            per_word=self.spec.concepts_per_item, k=self.spec.k, seed=self.spec.seed * 1000 + item.index
        )
        exemplars, found = concept_neurons(table, words, config, self.spec.demands)
        rng = np.random.default_rng((self.spec.seed, 7, item.index))
        objects, said = _neurons(f"concepts.{item.index:03d}", exemplars, found, rng, self.spec)
        return Output({**objects, item.key: descriptions_csv(said)}, {"neurons": len(said)})


def _neurons(
    where: str, exemplars: Exemplars, found: Sequence[Finding], rng: np.random.Generator, spec: AnnotateSpec
) -> tuple[dict[str, bytes], dict[Neuron, tuple[str, ...]]]:
    """The arrays of a layer's folder, and what is said of its neurons."""
    kept = np.array([unit for unit, finding in enumerate(found) if finding], np.int64)
    said = {Neuron(where, int(unit)): descriptions(found[unit], rng, count=spec.num_descriptions) for unit in kept}
    if not len(kept):
        return {}, {}
    masks = np.unpackbits(exemplars.regions[kept], axis=2).reshape(len(kept), -1, 1, REGION, REGION)
    arrays = {"images": exemplars.photographs[kept], "masks": masks, "units": kept}
    return {f"{where}/{name}.npy": _npy(array) for name, array in arrays.items()}, said


def stages(spec: AnnotateSpec, num_concept_items: int, is_classes: dict[str, set[str]]) -> dict[str, list[Item]]:
    """The work items of every stage, in the order of the stages."""
    chunks = range(len(spec.chunks()))
    names = [subject.name for subject in spec.subjects]
    layers = [(name, layer) for name in names for layer in spec.layers[name]]
    by_chunk = [{"subject": name, "chunk": chunk} for name in names for chunk in chunks]
    by_layer = [
        {"subject": name, "layer": layer, "depth": spec.depths[name][layer], "is_classes": layer in is_classes[name]}
        for name, layer in layers
    ]
    found: dict[str, list[tuple[str, dict[str, Any]]]] = {
        "photographs": [(f"photographs/{spec.part(chunk)}.npy", {}) for chunk in chunks]
    }
    for stage in ("peaks", "regions"):
        found[stage] = [
            (f"_work/{stage}/{safe_name(one['subject'])}/{spec.part(one['chunk'])}.safetensors", one)
            for one in by_chunk
        ]
    found["exemplars"] = [(_exemplars_key(one["subject"], one["layer"]), one) for one in by_layer]
    found["neurons"] = [
        (f"_work/said/{safe_name(one['subject'])}.{safe_name(one['layer'])}.csv", one) for one in by_layer
    ]
    found["concepts"] = [(f"_work/said/concepts.{number:03d}.csv", {}) for number in range(num_concept_items)]
    order = ("photographs", "peaks", "exemplars", "regions", "neurons", "concepts")
    return {
        stage: [Item(stage, i, len(found[stage]), key, payload) for i, (key, payload) in enumerate(found[stage])]
        for stage in order
        if found[stage]
    }


WORKERS = {
    "photographs": ReadPhotographs,
    "peaks": ReadPeaks,
    "exemplars": FindExemplars,
    "regions": ReadRegions,
    "neurons": DescribeUnits,
    "concepts": MakeConcepts,
}


def layers_of(spec: SubjectSpec) -> tuple[dict[str, int], dict[str, float], set[str]]:
    """A subject's layers with their numbers of units, their depths, and which of them are ImageNet's class scores."""
    subject = spec.load()
    infos = {info.name: info for info in list_layers(subject)}
    chosen = list(match_layers(subject, spec.layers))
    last = list(infos)[-1]
    if not spec.layers and infos[last].num_units == NUM_CLASSES and last not in chosen:
        chosen.append(last)
    scores = {layer for layer in chosen if layer == last and infos[layer].num_units == NUM_CLASSES}
    depths = {layer: place / max(1, len(infos) - 1) for place, layer in enumerate(infos) if layer in chosen}
    return {layer: infos[layer].num_units for layer in chosen}, depths, scores


def _exemplars_key(subject: str, layer: str) -> str:
    return f"_work/exemplars/{safe_name(subject)}/{safe_name(layer)}.safetensors"


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def _packed_maps(maps: Sequence[dict[Word, Cells]], sources: Sequence[str]) -> bytes:
    """The maps of a chunk's photographs. Not compressed: the same on every machine."""
    words = list(dict.fromkeys(word for of_one in maps for word in of_one))
    numbers = {word: number for number, word in enumerate(words)}
    rows = [(row, numbers[word], cells) for row, of_one in enumerate(maps) for word, cells in of_one.items()]
    described = {"words": [dataclasses.astuple(word) for word in words], "sources": list(sources)}
    tensors = {
        "rows": np.array([(row, word) for row, word, _ in rows], np.int64).reshape(-1, 2),
        "cells": np.stack([cells for *_, cells in rows]).astype(np.float16),
        "described": np.frombuffer(json.dumps(described).encode(), np.uint8),
    }
    return save(tensors)


def _unpacked_maps(data: bytes) -> tuple[list[dict[Word, Cells]], list[str]]:
    tensors = load(data)
    described = json.loads(tensors["described"].tobytes())
    words = [Word(*word) for word in described["words"]]
    maps: list[dict[Word, Cells]] = [{} for _ in described["sources"]]
    for (row, word), cells in zip(tensors["rows"].tolist(), tensors["cells"], strict=True):
        maps[row][words[word]] = cells.astype(np.float32)
    return maps, described["sources"]
