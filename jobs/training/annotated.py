"""Annotated neurons by name: drawn by the project, a folder in MILANNOTATIONS' layout, or a labelling run's own."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int64, UInt8

from jobs.engine.plan import read_manifest
from jobs.storage import redact, storage_for
from jobs.training.described import read_described
from mami_core import contracts
from mami_core.errors import DescriptionsError
from mami_core.learning.annotated_folder import GROUPS, contents, open_annotated, open_exemplars
from mami_core.learning.descriptions import AnnotatedNeurons, Neuron
from mami_core.learning.generated import GeneratedConfig, generate
from mami_core.learning.searched_images import SearchedImages

GENERATED = "generated"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where annotated neurons come from; what a worker needs to open them itself."""

    name: str = GENERATED
    """"generated"; a folder that every worker can read; or, with `descriptions`, the output of jobs.label."""
    descriptions: str | None = None
    """What people said of a labelling run's neurons: a CSV file with the columns layer, unit and summary."""
    num_neurons: int = 1200
    """How many to generate."""
    seed: int = 0
    """What to generate them from."""
    images: str | None = None
    """The images that a folder's ids.csv numbers, for layers without pictures of their own; local or s3://."""
    described: bool = True
    """Whether only described neurons of a folder count; otherwise all, with no descriptions."""

    def open(self, *, images: Int64[np.ndarray, "neurons k"] | None = None) -> AnnotatedNeurons:
        """The neurons, their descriptions and their pictures; a folder's with the image numbers of an earlier opening.

        Raises:
            DescriptionsError: no such folder, or one in another layout.
        """
        if self.name == GENERATED:
            return generate(GeneratedConfig(num_neurons=self.num_neurons, seed=self.seed))
        if self.descriptions is not None:
            return _of_run(self.name, read_described(self.descriptions), self.descriptions)
        group = Path(self.name).name in GROUPS and Path(self.name).parent.is_dir()
        if self.described and not Path(self.name).is_dir() and not group:
            raise DescriptionsError(
                f"{self.name}: expected '{GENERATED}', or a folder in MILANNOTATIONS' layout (annotations.csv, and "
                "images.npy or ids.csv, and masks.npy for each layer)."
            )
        opened = open_annotated if self.described else open_exemplars
        return opened(self.name, source=self._searched(), images=images)

    def identity(self, annotated: AnnotatedNeurons) -> dict[str, Any]:
        """What tells these neurons from others, as JSON values; "digest" does so by what is said of which images."""
        digest = hashlib.sha256(annotated.images.tobytes())
        for neuron, descriptions in zip(annotated.neurons, annotated.descriptions, strict=True):
            digest.update(repr((neuron.layer, neuron.unit, descriptions)).encode())
        if searched := self._searched():
            digest.update(searched.fingerprint.encode())
        if self.name == GENERATED:
            made: dict[str, Any] = {"kind": GENERATED, "num_neurons": self.num_neurons, "seed": self.seed}
        elif self.descriptions is not None:
            made = {"kind": "run", "run": read_manifest(storage_for(self.name)).fingerprint[:16]}
        else:
            made = {"kind": "folder", "contents": contents(annotated)}
        return {**made, "digest": digest.hexdigest()[:16]}

    def _searched(self) -> SearchedImages | None:
        if self.images is None:
            return None
        return SearchedImages(self.images, storage_for(self.images if "://" in self.images else "."))


def explain(there: Mapping[str, Any], _here: Mapping[str, Any]) -> dict[str, str]:
    """What to say where two plans differ in their "neurons", as `identity` tells them."""
    if {"contents", "run", "seed"} & there.get("neurons", {}).keys():
        return {
            "neurons.contents": "other pictures or regions than there, or other phrases of what they show",
            "neurons.run": "the run was labelled anew since",
        }
    before = "an earlier version of this project began it, which did not look at pictures and regions: they may differ"
    return {"neurons.contents": before, "neurons.run": before}


def _of_run(url: str, described: dict[Neuron, tuple[str, ...]], where: str) -> AnnotatedNeurons:
    """The described neurons of a finished run that have exemplars. Their features are the run's own."""
    storage = storage_for(url)
    paths = [file.path for file in read_manifest(storage).files if file.path.startswith("exemplars/")]
    exemplars = pa.concat_tables(
        contracts.from_parquet(storage.read(path), contracts.EXEMPLARS, where=path) for path in paths
    )
    subjects = exemplars["subject"].unique().to_pylist()
    if len(subjects) > 1:
        raise DescriptionsError(
            f"{redact(url)}: descriptions name layers and units, and this run has several subjects: "
            f"{', '.join(subjects)}. Train on a run of one subject."
        )
    shown = {Neuron(row["layer"], row["unit"]): row["images"] for row in exemplars.to_pylist() if row["images"]}
    neurons = tuple(neuron for neuron in shown if neuron in described)
    if not neurons:
        layers = exemplars["layer"].unique().to_pylist()
        raise DescriptionsError(
            f"{where}: describes no neuron of {redact(url)} that has exemplars. Its layers are {', '.join(layers)}; "
            f"the descriptions name {', '.join(sorted({neuron.layer for neuron in described}))}."
        )
    images = np.full((len(neurons), max(len(shown[neuron]) for neuron in neurons)), -1, np.int64)
    for row, neuron in enumerate(neurons):
        images[row, : len(shown[neuron])] = shown[neuron]
    return AnnotatedNeurons(
        neurons=neurons,
        descriptions=tuple(described[neuron] for neuron in neurons),
        images=images,
        pictures=_NoPictures(),
    )


class _NoPictures:
    """Implements `Pictures` where features are there already, and nobody looks."""

    def pixels(self, image: int) -> UInt8[np.ndarray, "3 h w"]:
        raise AssertionError(f"image {image} of a run is not read again")

    def region(self, neuron: int, rank: int) -> UInt8[np.ndarray, "h w"]:
        raise AssertionError(f"the region of exemplar {rank} of neuron {neuron} is not made again")


def features_of_run(url: str) -> tuple[str, list[str]]:
    """Which encoder a run's features come from, and where they are, as absolute paths.

    Raises:
        DescriptionsError: they have been deleted.
    """
    storage = storage_for(url)
    encoder = read_manifest(storage).config["captioner"]["encoder"]
    paths = [storage.locate(info.path) for info in storage.find("_work/features")]
    if not paths:
        raise DescriptionsError(f"{redact(url)}: its _work/features is gone; label into a new folder to make it again.")
    return encoder, paths
