"""Exemplars and concept maps → annotated neurons."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from jobs.annotating.photographs import lexicon_of, npy, table_of
from jobs.annotating.reading import draws_of, peaks_of, regions_of
from jobs.annotating.spec import AnnotateSpec
from jobs.engine.items import Item, Output
from jobs.engine.kept import one_at_a_time
from jobs.storage import Storage
from mami_core.learning.descriptions import PHRASES, Neuron, descriptions_csv, phrases_json
from mami_core.learning.dissected import (
    ConceptsConfig,
    ConceptTable,
    Exemplars,
    Finding,
    Observed,
    Phrasebook,
    Words,
    class_findings,
    concept_neurons,
    descriptions,
    findings,
    kinds_of_classes,
    phrasebook,
    truth_of,
)
from mami_core.learning.dissected.units import REGION

ARRAYS = ("images", "masks", "units", "shown")
"""The files of a layer's folder."""


class _Describer:
    def __init__(self, spec: AnnotateSpec) -> None:
        self.spec, self.lexicon = spec, lexicon_of(spec.wordnet)
        self.table = one_at_a_time(self._read_table)

    def _read_table(self, storage: Storage, classes: bool) -> tuple[ConceptTable, Words, Phrasebook]:
        """What all photographs show, and what can be said of it. The same for all items of a run."""
        table = table_of(self.spec, storage)
        words = Words(table.words, table.areas * np.array([word.kind != "place" for word in table.words]))
        return table, words, phrasebook(table, self.lexicon, classes=classes)


class DescribeUnits(_Describer):
    """A layer's exemplars → its annotated neurons; units of which nothing can be said are counted and left out."""

    def process(self, item: Item, storage: Storage) -> Output:
        """A layer of class scores is described by its classes."""
        name, layer = item.payload["subject"], item.payload["layer"]
        table, words, book = self.table(storage, item.payload["classes"])
        region_of = regions_of(self.spec, name, layer, storage)
        peaks = peaks_of(self.spec, name, layer, storage).astype(np.float32)
        objects: dict[str, bytes] = {}
        said, unsaid = {}, 0
        kinds = kinds_of_classes(table, self.lexicon) if item.payload["is_classes"] else []
        known = [(*of_kind, of_class) for of_kind, of_class in zip(kinds, book.classes, strict=False)]
        for draw, photographs in enumerate(draws_of(name, layer, storage)):
            observed = Observed(table, Exemplars(photographs, region_of(photographs)))
            if item.payload["is_classes"]:
                found = class_findings(observed, words, self.lexicon, kinds, self.spec.demands)
            else:
                depth = item.payload["depth"]
                found = findings(observed, words, depth=depth, demands=self.spec.demands, peaks=peaks)
            where = self.spec.layer_name(name, layer, draw)
            rng = np.random.default_rng((self.spec.seed, item.index, draw))
            made, described = _neurons(where, observed, truth_of(observed, book, known), book, found, rng, self.spec)
            objects |= made
            said |= described
            unsaid += len(found) - len(described)
        objects[item.key] = descriptions_csv(said)
        return Output(objects, {"neurons": len(said), "units of which nothing can be said": unsaid})


class MakeConcepts(_Describer):
    """Some of the concept neurons."""

    def process(self, item: Item, storage: Storage) -> Output:
        """As many a word in every item, from a seed of its own."""
        table, words, book = self.table(storage, item.payload["classes"])
        config = ConceptsConfig(
            per_word=self.spec.concepts_per_item, k=self.spec.k, seed=self.spec.seed * 1000 + item.index
        )
        observed, found = concept_neurons(table, words, config, self.spec.demands)
        rng = np.random.default_rng((self.spec.seed, 7, item.index))
        objects, said = _neurons(
            f"concepts.{item.index:03d}", observed, truth_of(observed, book), book, found, rng, self.spec
        )
        return Output({**objects, item.key: descriptions_csv(said)}, {"neurons": len(said)})


def _neurons(
    where: str,
    observed: Observed,
    shown: UInt8[np.ndarray, "u k phrases"],
    book: Phrasebook,
    found: Sequence[Finding],
    rng: np.random.Generator,
    spec: AnnotateSpec,
) -> tuple[dict[str, bytes], dict[Neuron, tuple[str, ...]]]:
    """The arrays of a layer's folder with the phrases that all layers share, and what is said of its neurons."""
    kept = np.array([unit for unit, finding in enumerate(found) if finding], np.int64)
    said = {Neuron(where, int(unit)): descriptions(found[unit], rng, count=spec.num_descriptions) for unit in kept}
    if not len(kept):
        return {}, {}
    exemplars = observed.exemplars
    masks = np.unpackbits(exemplars.regions[kept], axis=2).reshape(len(kept), -1, 1, REGION, REGION)
    arrays = {
        "images": exemplars.photographs[kept],
        "masks": masks,
        "units": kept,
        "shown": shown[kept],
    }
    objects = {f"{where}/{name}.npy": npy(arrays[name]) for name in ARRAYS}
    return {PHRASES: phrases_json(book.phrases), **objects}, said
