"""Photographs → their pixels, and where in them each word is true."""

import dataclasses
import functools
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import load, save

from jobs.annotating.spec import AnnotateSpec, all_photographs
from jobs.engine.items import Item, Output
from jobs.labelling.specs import SubjectSpec
from jobs.storage import Storage
from mami_core.errors import DescriptionsError
from mami_core.features.looks import GRID, SIDE
from mami_core.learning.dissected import (
    ConceptTable,
    Detectors,
    Lexicon,
    Locator,
    Photograph,
    Word,
    WordNet,
    concept_maps,
    concept_table,
    detecting,
    square,
)
from mami_core.learning.dissected.maps import Maps


class ReadPhotographs:
    """A chunk of photographs → their pixels, and where each word is true in them."""

    def __init__(self, spec: AnnotateSpec) -> None:
        self.spec = spec

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

    @functools.cached_property
    def detectors(self) -> Detectors:
        """Loaded once."""
        return Detectors(self.spec.detect)

    def process(self, item: Item, storage: Storage) -> Output:
        """Each photograph is decoded once. One that cannot be decoded fails the item, and is named."""
        lexicon = lexicon_of(self.spec.wordnet)
        first, end = self.spec.chunks()[item.index]
        chosen = self.photographs[first:end]
        pixels = np.zeros((len(chosen), 3, SIDE, SIDE), np.uint8)
        maps: list[Maps] = []
        for row, photograph in enumerate(chosen):
            picture = _decoded(photograph.path)
            shown = square(picture, SIDE)
            pixels[row] = shown.transpose(2, 0, 1)
            locate = self.locator.locate(pixels[row]) if self.locator else None
            detected = self.detectors.find(square(picture, detecting.SIDE)) if self.spec.detect else {}
            maps.append(concept_maps(photograph, shown, picture.size, lexicon, locate, self.said, detected))
        packed = _packed_maps(maps, [photograph.source for photograph in chosen])
        objects = {f"_work/maps/{item.name}.safetensors": packed, item.key: npy(pixels)}
        return Output(objects, {"photographs": len(chosen)})


@functools.cache
def lexicon_of(wordnet: str) -> Lexicon:
    """Loaded once a process, for all stages."""
    return Lexicon(WordNet(wordnet))


def _decoded(path: Path) -> Image.Image:
    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise DescriptionsError(f"{path}: expected a photograph, but it cannot be decoded: {error}") from error


def pixels_of(spec: AnnotateSpec, chunk: int, storage: Storage) -> np.ndarray:
    """A chunk's photographs, [photographs, 3, side, side] in bytes."""
    return np.load(io.BytesIO(storage.read(f"photographs/{spec.part(chunk)}.npy")), allow_pickle=False)


def table_of(spec: AnnotateSpec, storage: Storage) -> ConceptTable:
    """What all photographs show."""
    maps: list[Maps] = []
    sources: list[str] = []
    for chunk in range(len(spec.chunks())):
        of_chunk, from_chunk = _unpacked_maps(storage.read(f"_work/maps/{spec.part(chunk)}.safetensors"))
        maps += of_chunk
        sources += from_chunk
    return concept_table(maps, sources)


def npy(array: np.ndarray) -> bytes:
    """An array as a file."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def packed(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Arrays as a file. safetensors writes memory as it lies, so that each must lie in the order of its axes."""
    return save({name: np.ascontiguousarray(array) for name, array in arrays.items()})


def _packed_maps(maps: Sequence[Maps], sources: Sequence[str]) -> bytes:
    """The maps of a chunk's photographs. Not compressed: the same on every machine."""
    words = list(dict.fromkeys(word for of_one in maps for word in of_one.named))
    numbers = {word: number for number, word in enumerate(words)}
    rows = [(row, numbers[word], cells) for row, of_one in enumerate(maps) for word, cells in of_one.named.items()]
    described = {"words": [dataclasses.astuple(word) for word in words], "sources": list(sources)}
    tensors = {
        "rows": np.array([(row, word) for row, word, _ in rows], np.int64).reshape(-1, 2),
        "cells": np.array([cells for *_, cells in rows], np.float16).reshape(-1, GRID, GRID),
        "seen": np.stack([of_one.seen for of_one in maps]),
        "described": np.frombuffer(json.dumps(described).encode(), np.uint8),
    }
    return packed(tensors)


def _unpacked_maps(data: bytes) -> tuple[list[Maps], list[str]]:
    """The maps in half precision, as they lie in the file: there are hundreds of thousands."""
    tensors = load(data)
    described = json.loads(tensors["described"].tobytes())
    words = [Word(*word) for word in described["words"]]
    maps = [Maps({}, seen) for seen in tensors["seen"]]
    for (row, word), cells in zip(tensors["rows"].tolist(), tensors["cells"], strict=True):
        maps[row].named[words[word]] = cells
    return maps, described["sources"]
