"""Annotated neurons, wherever their pictures come from, → a folder that `annotated_folder` reads."""

from pathlib import Path

import numpy as np

from mami_core.learning.annotated_folder import ANNOTATIONS
from mami_core.learning.descriptions import PHRASES, AnnotatedNeurons, descriptions_csv, phrases_json


def write_annotated(annotated: AnnotatedNeurons, folder: str | Path) -> None:
    """Write the neurons in this layout, every exemplar in full; missing exemplars become black with an empty region.

    All images must have one size, and all regions another.
    """
    folder = Path(folder)
    by_layer: dict[str, list[int]] = {}
    for number, neuron in enumerate(annotated.neurons):
        by_layer.setdefault(neuron.layer, []).append(number)
    shown = annotated.read_shown() if annotated.read_shown else None
    for layer, numbers in by_layer.items():
        (folder / layer).mkdir(parents=True, exist_ok=True)
        np.save(folder / layer / "units.npy", np.array([annotated.neurons[n].unit for n in numbers]))
        _write_layer(annotated, numbers, folder / layer)
        if shown:
            np.save(folder / layer / "shown.npy", shown.truth[numbers])
    if shown:
        (folder / PHRASES).write_bytes(phrases_json(shown.phrases))
    described = dict(zip(annotated.neurons, annotated.descriptions, strict=True))
    (folder / ANNOTATIONS).write_bytes(descriptions_csv(described))


def _write_layer(annotated: AnnotatedNeurons, numbers: list[int], folder: Path) -> None:
    """Fill the layer's two arrays image by image, so that each distinct image is made only once."""
    shape = (len(numbers), annotated.k)
    row_of = {number: row for row, number in enumerate(numbers)}
    images = masks = None
    for image, exemplars in annotated.sightings(np.unique(annotated.images[numbers]).tolist()):
        pixels = annotated.pictures.pixels(image)
        for neuron, rank in exemplars:
            if neuron not in row_of:
                continue
            region = annotated.pictures.region(neuron, rank)
            if images is None or masks is None:
                images = _create(folder / "images.npy", (*shape, *pixels.shape))
                masks = _create(folder / "masks.npy", (*shape, 1, *region.shape))
            images[row_of[neuron], rank] = pixels
            masks[row_of[neuron], rank, 0] = region


def _create(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
