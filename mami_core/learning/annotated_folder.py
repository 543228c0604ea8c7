"""Annotated neurons in the layout of MILANNOTATIONS (Hernandez et al., 2022, arXiv 2201.11114), on a local disk.

::

    annotations.csv           layer,unit,summary
    <layer>/images.npy        uint8 [units, k, 3, height, width], exemplars strongest first
    <layer>/ids.csv           instead of it: the numbers of the exemplars' images in those that were searched
    <layer>/masks.npy         uint8 [units, k, 1, any height, any width], above 0 inside the region
    <layer>/units.npy         optional: the number of each unit; 0, 1, 2… where it is absent
    <layer>/activations.csv   optional: each unit's highest activation on each exemplar

Neurons of one data set show the same photographs again and again. So `images.npy` may also be int64 [units, k], the
number of each exemplar's photograph (−1 for none), and the photographs lie once beside the layers:

::

    photographs/*.npy         uint8 [photographs, 3, height, width], numbered through all files in the order of names

Where it is known what the exemplars show, as of photographs that people annotated, every layer may say it
(`descriptions.Shown`):

::

    phrases.json              [[text, kind], …], each text once
    <layer>/shown.npy         uint8 [units, k, phrases], how true each phrase is of each exemplar, 255 for wholly

The arrays are mapped into memory, never loaded whole, and nothing is unpickled. A folder of such folders, one a network
as MILANNOTATIONS publishes them (`alexnet/imagenet`, `resnet152/places365` …), is read as one whose layers are called
`alexnet/imagenet/conv1`; so is one of MILAN's groups of them, by its name in that folder (`base`,
`not-alexnet-imagenet`).
"""

import hashlib
import logging
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Int64, UInt8

from mami_core import contracts
from mami_core.captions.evidence import Phrase
from mami_core.errors import DescriptionsError
from mami_core.learning.descriptions import (
    PHRASES,
    AnnotatedNeurons,
    Neuron,
    Shown,
    by_neuron,
    read_descriptions,
    read_phrases,
)
from mami_core.learning.exemplar_arrays import LayerArrays, Photographs, PhotographsFolder, open_layer

logger = logging.getLogger(__name__)

ANNOTATIONS = "annotations.csv"
_BY_NETWORK = {name: (f"{name}/imagenet", f"{name}/places365") for name in ("alexnet", "resnet152", "biggan")}
_EVERY = tuple(folder for folders in _BY_NETWORK.values() for folder in folders)

GROUPS: dict[str, tuple[str, ...]] = {
    "base": _EVERY,
    "cls": _BY_NETWORK["alexnet"] + _BY_NETWORK["resnet152"],
    "gen": _BY_NETWORK["biggan"],
    **{images: tuple(name for name in _EVERY if name.endswith(images)) for images in ("imagenet", "places365")},
    **_BY_NETWORK,
    **{f"not-{left.replace('/', '-')}": tuple(name for name in _EVERY if name != left) for left in _EVERY},
}
"""MILAN's groups of annotated networks, by which its experiments train and test."""


@dataclass(frozen=True, slots=True, eq=False)
class _FolderPictures:
    """Implements `Pictures`: reads one exemplar at a time from the mapped arrays."""

    rows: tuple[tuple[LayerArrays, int], ...]
    """Where each neuron is: its layer, and its row there."""
    first: Int64[np.ndarray, "images 2"]
    """Neuron and rank of the first exemplar that shows an image."""
    phrases: tuple[Phrase, ...]
    """What the layers say of their exemplars; none where they say nothing."""

    def pixels(self, image: int) -> UInt8[np.ndarray, "3 h w"]:
        neuron, rank = self.first[image].tolist()
        layer, row = self.rows[neuron]
        return np.array(layer.pixels(row, rank))

    def region(self, neuron: int, rank: int) -> UInt8[np.ndarray, "h w"]:
        layer, row = self.rows[neuron]
        return np.array(layer.masks[row, rank, 0], np.uint8)

    def name(self, image: int, neurons: Sequence[Neuron]) -> str:
        """What people call a photograph; one without a name by the first exemplar that shows it."""
        neuron, rank = self.first[image].tolist()
        layer, row = self.rows[neuron]
        return layer.name(row, rank) or f"{neurons[neuron].layer}/{neurons[neuron].unit}/{rank}"

    def shown(self) -> Shown:
        """What the exemplars show, read from all layers."""
        found = np.zeros(
            (len(self.rows), max(layer.images.shape[1] for layer, _ in self.rows), len(self.phrases)), np.uint8
        )
        for neuron, (layer, row) in enumerate(self.rows):
            assert layer.shown is not None, "phrases are read where layers are"
            found[neuron, : layer.shown.shape[1]] = layer.shown[row]
        return Shown(self.phrases, found)


def open_annotated(
    folder: str | Path,
    *,
    source: Photographs | None = None,
    images: Int64[np.ndarray, "neurons k"] | None = None,
) -> AnnotatedNeurons:
    """The described neurons of a folder, in the order of layer name, then row. Undescribed ones are left out.

    `source` are the images that were searched, for layers without pictures of their own. Pictures are told apart by
    their content, which means reading each of them once (about a second a gigabyte). A worker that opens a folder
    again is spared this by the `images` of an earlier opening.

    Raises:
        DescriptionsError: naming the file that is missing, of another type or shape, or does not match the others.
    """
    root, described = _described(Path(folder))
    phrases = read_phrases(root / PHRASES)
    if not phrases and (unread := sorted(root.glob(f"*/{PHRASES}"))):
        logger.warning(
            "%s: what exemplars show is read of one folder of layers, not of a folder of such folders: without it "
            "nothing is learned that holds captions against them.",
            unread[0],
        )
    at = _open_layers(root, sorted({neuron.layer for neuron in described}), source, phrases)
    absent = [neuron for neuron in described if neuron not in at]
    if absent:
        raise DescriptionsError(
            f"{folder}: annotations.csv describes {len(absent)} neurons without exemplars, the first is unit "
            f"{absent[0].unit} of layer '{absent[0].layer}'. Remove these lines or complete the layer's arrays."
        )
    at = {neuron: place for neuron, place in at.items() if neuron in described}
    return _neurons(at, described, root, images, phrases)


def open_exemplars(
    folder: str | Path,
    *,
    source: Photographs | None = None,
    images: Int64[np.ndarray, "neurons k"] | None = None,
) -> AnnotatedNeurons:
    """All neurons of a folder of exemplars, whether anybody described them or not: their descriptions are empty.

    Raises:
        DescriptionsError: no layer, or as `open_annotated`.
    """
    root, networks = _networks(Path(folder), "*/masks.npy")
    layers = []
    for network in networks or [Path(folder)]:
        found = sorted(file.parent for file in network.glob("*/masks.npy"))
        if not found:
            raise DescriptionsError(
                f"{network}: expected folders of layers with masks.npy, as MILAN leaves them; found none."
            )
        layers += [layer.relative_to(root).as_posix() for layer in found]
    return _neurons(_open_layers(root, layers, source, ()), {}, root, images, ())


def fingerprint(neurons: AnnotatedNeurons) -> str:
    """Changes when the files do that `open_exemplars` opened: by their names, sizes and times, as of photographs."""
    pictures = neurons.pictures
    assert isinstance(pictures, _FolderPictures), "opened from a folder"
    digest = hashlib.sha256(repr(neurons.neurons).encode() + neurons.images.tobytes())
    for layer in dict.fromkeys(layer for layer, _ in pictures.rows):
        digest.update(repr(layer.versions()).encode())
    return digest.hexdigest()[:16]


def contents(neurons: AnnotatedNeurons) -> str:
    """Changes when the neurons' pictures or regions do, or what is said to be shown there, wherever the folder lies.

    Reads them all once more, about a second a gigabyte; of images that were searched, their source knows better.
    """
    pictures = neurons.pictures
    assert isinstance(pictures, _FolderPictures), "opened from a folder"
    digest = hashlib.blake2b(digest_size=8)
    for image, (neuron, _) in enumerate(pictures.first.tolist()):
        if isinstance(pictures.rows[neuron][0].photographs, PhotographsFolder | None):
            digest.update(pictures.pixels(image).tobytes())
    digest.update(_told(pictures.phrases))
    for layer, row in pictures.rows:
        digest.update((layer.masks[row] > 0).tobytes())
        if layer.shown is not None:
            digest.update(layer.shown[row].tobytes())
    return digest.hexdigest()


def _told(phrases: tuple[Phrase, ...]) -> bytes:
    """Of folders without phrases nothing, so that they are what they were before there were any."""
    return repr([tuple(phrase) for phrase in phrases]).encode() if phrases else b""


def exemplars_of(neurons: AnnotatedNeurons, subject: str) -> pa.Table:
    """The exemplars table (`contracts.EXEMPLARS`) of neurons that `open_exemplars` gave.

    What such a folder does not say is nan: thresholds, how often units are active, activations without activations.csv.
    """
    pictures = neurons.pictures
    assert isinstance(pictures, _FolderPictures), "opened from a folder"
    names = [pictures.name(image, neurons.neurons) for image in range(neurons.num_images)]
    rows = []
    for (layer, unit), images, (arrays, row) in zip(neurons.neurons, neurons.images, pictures.rows, strict=True):
        numbers = images[images >= 0].tolist()
        if -1 in images[: len(numbers)]:
            raise DescriptionsError(
                f"{layer}: unit {unit} lacks an exemplar, and has weaker ones. Remove those as well."
            )
        known = np.full(len(numbers), np.nan) if arrays.activations is None else arrays.activations[row]
        rows.append(
            {
                "subject": subject,
                "layer": layer,
                "unit": unit,
                "images": numbers,
                "keys": [names[image] for image in numbers],
                "activations": known[: len(numbers)].tolist(),
                "threshold": np.nan,
                "active_fraction": np.nan,
            }
        )
    return contracts.from_rows(rows, contracts.EXEMPLARS)


def _neurons(
    at: dict[Neuron, tuple[LayerArrays, int]],
    described: dict[Neuron, tuple[str, ...]],
    folder: Path,
    images: Int64[np.ndarray, "neurons k"] | None,
    phrases: tuple[Phrase, ...],
) -> AnnotatedNeurons:
    rows = tuple(at.values())
    numbers = _number_images(rows) if images is None else images
    k = max(layer.images.shape[1] for layer, _ in rows)
    if len(numbers) != len(rows) or numbers.shape[1] > k:
        raise DescriptionsError(f"{folder}: holds other neurons than when its images were numbered; start again.")
    if numbers.shape[1] < k:  # they come from a table, which is as wide as its longest row
        numbers = np.pad(numbers, ((0, 0), (0, k - numbers.shape[1])), constant_values=-1)
    pictures = _FolderPictures(rows, _first_shown(numbers), phrases)
    return AnnotatedNeurons(
        neurons=tuple(at),
        descriptions=tuple(described.get(neuron, ()) for neuron in at),
        images=numbers,
        pictures=pictures,
        read_shown=pictures.shown if phrases else None,
    )


def _described(folder: Path) -> tuple[Path, dict[Neuron, tuple[str, ...]]]:
    """Where layers' names begin, and what is said of each neuron."""
    root, networks = _networks(folder, ANNOTATIONS)
    described: dict[Neuron, tuple[str, ...]] = {}
    for network in networks or [folder]:  # what is missing, reading it says
        said = by_neuron(read_descriptions(network / ANNOTATIONS))
        above = "" if network == root else f"{network.relative_to(root).as_posix()}/"
        described |= {Neuron(f"{above}{layer}", unit): texts for (layer, unit), texts in said.items()}
    return root, described


def _networks(folder: Path, file: str) -> tuple[Path, Sequence[Path]]:
    """Where layers' names begin, and the networks' folders there: those that hold such a file."""
    if any(folder.glob(file)):
        return folder, [folder]
    above = file.count("/")
    if found := sorted({path.parents[above] for depth in ("*", "*/*") for path in folder.glob(f"{depth}/{file}")}):
        return folder, found
    if folder.name in GROUPS and folder.parent.is_dir():
        return folder.parent, [folder.parent / name for name in GROUPS[folder.name]]
    return folder, []


def _open_layers(
    folder: Path, names: Sequence[str], source: Photographs | None, phrases: tuple[Phrase, ...]
) -> dict[Neuron, tuple[LayerArrays, int]]:
    """Where each neuron is: its layer's arrays, and its row there."""
    beside = PhotographsFolder(folder / "photographs")
    at = {}
    for name in names:
        # The name may come from a file: it may name a folder inside this one, never one elsewhere.
        if Path(name).is_absolute() or ".." in Path(name).parts or not (folder / name).is_dir():
            raise DescriptionsError(
                f"{folder}: annotations.csv describes layer '{name}', so a folder of this name is expected, and there "
                f"is none. Present: {sorted(entry.name for entry in folder.iterdir() if entry.is_dir())[:8]}."
            )
        layer = open_layer(folder / name, beside, source, num_phrases=len(phrases))
        at |= {Neuron(name, int(unit)): (layer, row) for row, unit in enumerate(layer.units)}
    return at


def _number_images(rows: tuple[tuple[LayerArrays, int], ...]) -> Int64[np.ndarray, "neurons k"]:
    """The same number for exemplars with the same pixels, in the order in which they first occur.

    −1 where there is no exemplar: black images with empty regions that fill a row up.
    """
    numbers: dict[Hashable, int] = {}
    found = np.full((len(rows), max(layer.images.shape[1] for layer, _ in rows)), -1, dtype=np.int64)
    for neuron, (layer, row) in enumerate(rows):
        for rank in range(layer.count(row)):
            if (content := layer.content(row, rank)) is not None:
                found[neuron, rank] = numbers.setdefault(content, len(numbers))
    return found


def _first_shown(images: Int64[np.ndarray, "neurons k"]) -> Int64[np.ndarray, "images 2"]:
    numbers, first = np.unique(images, return_index=True)
    places = np.stack(np.unravel_index(first[numbers >= 0], images.shape), axis=1)
    return places.astype(np.int64)
