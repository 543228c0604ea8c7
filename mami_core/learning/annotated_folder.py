"""Annotated neurons in the layout of MILANNOTATIONS (Hernandez et al., 2022, arXiv 2201.11114), on a local disk.

::

    annotations.csv           layer,unit,summary
    <layer>/images.npy        uint8 [units, k, 3, height, width], exemplars strongest first
    <layer>/masks.npy         uint8 [units, k, 1, any height, any width], above 0 inside the region
    <layer>/units.npy         optional: the number of each unit; 0, 1, 2… where it is absent

Neurons of one data set show the same photographs again and again. So `images.npy` may also be int64 [units, k], the
number of each exemplar's photograph (−1 for none), and the photographs lie once beside the layers:

::

    photographs/*.npy         uint8 [photographs, 3, height, width], numbered through all files in the order of names

The arrays are mapped into memory, never loaded whole, and nothing is unpickled. A folder of such folders, one a network
as MILANNOTATIONS publishes them (`alexnet/imagenet`, `resnet152/places365` …), is read as one whose layers are called
`alexnet/imagenet/conv1`; so is one of MILAN's groups of them, by its name in that folder (`base`,
`not-alexnet-imagenet`).
"""

import hashlib
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from mami_core.errors import DescriptionsError
from mami_core.learning.descriptions import AnnotatedNeurons, Neuron, by_neuron, descriptions_csv, read_descriptions

_ANNOTATIONS = "annotations.csv"
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
class _Layer:
    """One layer's mapped arrays."""

    images: UInt8[np.ndarray, "units k 3 h w"] | Int64[np.ndarray, "units k"]
    """Exemplars, or the numbers of their photographs."""
    masks: UInt8[np.ndarray, "units k 1 a b"]
    units: Int64[np.ndarray, " units"]
    photographs: "_Photographs"

    def pixels(self, row: int, rank: int) -> UInt8[np.ndarray, "3 h w"]:
        """One exemplar."""
        shown = self.images[row, rank]
        return self.photographs[int(shown)] if self.images.ndim == 2 else shown


class _Photographs:
    """The shared photographs of a folder, by number."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shape = "photographs×3×height×width"
        self._parts = [open_array(path, shape, (None, 3, None, None)) for path in sorted(folder.glob("*.npy"))]
        self._starts = np.cumsum([0, *map(len, self._parts)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, number: int) -> UInt8[np.ndarray, "3 h w"]:
        part = int(np.searchsorted(self._starts, number, side="right")) - 1
        return self._parts[part][number - self._starts[part]]


@dataclass(frozen=True, slots=True, eq=False)
class _FolderPictures:
    """Implements `Pictures`: reads one exemplar at a time from the mapped arrays."""

    rows: tuple[tuple[_Layer, int], ...]
    """Where each neuron is: its layer, and its row there."""
    first: Int64[np.ndarray, "images 2"]
    """Neuron and rank of the first exemplar that shows an image."""

    def pixels(self, image: int) -> UInt8[np.ndarray, "3 h w"]:
        neuron, rank = self.first[image].tolist()
        layer, row = self.rows[neuron]
        return np.array(layer.pixels(row, rank))

    def region(self, neuron: int, rank: int) -> UInt8[np.ndarray, "h w"]:
        layer, row = self.rows[neuron]
        return np.array(layer.masks[row, rank, 0])


def open_annotated(folder: str | Path, *, images: Int64[np.ndarray, "neurons k"] | None = None) -> AnnotatedNeurons:
    """The described neurons of a folder, in the order of layer name, then row. Undescribed ones are left out.

    Images are told apart by their content, which means reading each of them once (about a second a gigabyte). A
    worker that opens a folder again is spared this by the `images` of an earlier opening.

    Raises:
        DescriptionsError: naming the file that is missing, of another type or shape, or does not match the others.
    """
    folder, described = _described(Path(folder))
    names = sorted({neuron.layer for neuron in described})
    photographs = _Photographs(folder / "photographs")
    layers = {name: _open_layer(folder, name, photographs) for name in names}
    at = {Neuron(n, int(unit)): (layer, row) for n, layer in layers.items() for row, unit in enumerate(layer.units)}
    absent = [neuron for neuron in described if neuron not in at]
    if absent:
        raise DescriptionsError(
            f"{folder}: annotations.csv describes {len(absent)} neurons without exemplars, the first is unit "
            f"{absent[0].unit} of layer '{absent[0].layer}'. Remove these lines or complete the layer's arrays."
        )
    neurons = tuple(neuron for neuron in at if neuron in described)
    rows = tuple(at[neuron] for neuron in neurons)
    numbers = _number_images(rows) if images is None else images
    if numbers.shape != (len(rows), max(layer.images.shape[1] for layer, _ in rows)):
        raise DescriptionsError(f"{folder}: holds other neurons than when its images were numbered; start again.")
    descriptions = tuple(described[neuron] for neuron in neurons)
    pictures = _FolderPictures(rows, _first_shown(numbers))
    return AnnotatedNeurons(neurons=neurons, descriptions=descriptions, images=numbers, pictures=pictures)


def _described(folder: Path) -> tuple[Path, dict[Neuron, tuple[str, ...]]]:
    """Where layers' names begin, and what is said of each neuron."""
    if (folder / _ANNOTATIONS).is_file():
        return folder, by_neuron(read_descriptions(folder / _ANNOTATIONS))
    found = sorted(path.parent for depth in ("*", "*/*") for path in folder.glob(f"{depth}/{_ANNOTATIONS}"))
    root = folder
    if not found and folder.name in GROUPS:
        root, found = folder.parent, [folder.parent / name for name in GROUPS[folder.name]]
    if not found:
        return folder, by_neuron(read_descriptions(folder / _ANNOTATIONS))  # says what is missing
    described: dict[Neuron, tuple[str, ...]] = {}
    for place in found:
        network = place.relative_to(root).as_posix()
        said = by_neuron(read_descriptions(place / _ANNOTATIONS))
        described |= {Neuron(f"{network}/{layer}", unit): texts for (layer, unit), texts in said.items()}
    return root, described


def write_annotated(annotated: AnnotatedNeurons, folder: str | Path) -> None:
    """Write the neurons in this layout, every exemplar in full; missing exemplars become black with an empty region.

    All images must have one size, and all regions another.
    """
    folder = Path(folder)
    by_layer: dict[str, list[int]] = {}
    for number, neuron in enumerate(annotated.neurons):
        by_layer.setdefault(neuron.layer, []).append(number)
    for layer, numbers in by_layer.items():
        (folder / layer).mkdir(parents=True, exist_ok=True)
        np.save(folder / layer / "units.npy", np.array([annotated.neurons[n].unit for n in numbers]))
        _write_layer(annotated, numbers, folder / layer)
    described = dict(zip(annotated.neurons, annotated.descriptions, strict=True))
    (folder / "annotations.csv").write_bytes(descriptions_csv(described))


def _open_layer(folder: Path, name: str, photographs: _Photographs) -> _Layer:
    # The name comes from a file: it may name a folder inside this one, never one elsewhere.
    if Path(name).is_absolute() or ".." in Path(name).parts or not (folder / name).is_dir():
        raise DescriptionsError(
            f"{folder}: annotations.csv describes layer '{name}', so a folder of this name is expected, and there is "
            f"none. Present: {sorted(entry.name for entry in folder.iterdir() if entry.is_dir())[:8]}."
        )
    images = _open_images(folder / name / "images.npy", photographs)
    expected = (images.shape[0], images.shape[1], 1, None, None)
    masks = open_array(
        folder / name / "masks.npy", "units×k×1×height×width, as many units and k as images.npy", expected
    )
    return _Layer(images, masks, open_units(folder / name / "units.npy", len(images)), photographs)


def _open_images(path: Path, photographs: _Photographs) -> np.ndarray:
    numbers = load_array(path, mapped=True)
    if numbers.ndim != 2 or numbers.dtype != np.int64:
        return open_array(path, "units×k×3×height×width", (None, None, 3, None, None))
    if 0 in numbers.shape or numbers.min() < -1 or numbers.max() >= len(photographs):
        raise DescriptionsError(
            f"{path}: expected numbers of the {len(photographs)} photographs in {photographs.folder}, or -1; found "
            f"{_times(numbers.shape)} from {numbers.min(initial=0)} to {numbers.max(initial=0)}."
        )
    return numbers


def open_array(path: Path, kind: str, shape: tuple[int | None, ...]) -> np.ndarray:
    """A mapped array of bytes of this shape, of which None may be any number.

    Raises:
        DescriptionsError: another type or shape; `kind` says what was expected.
    """
    array = load_array(path, mapped=True)
    fits = array.ndim == len(shape) and all(want in (None, have) for want, have in zip(shape, array.shape, strict=True))
    if array.dtype != np.uint8 or not fits or 0 in array.shape:
        raise DescriptionsError(f"{path}: expected uint8 of {kind}; found {array.dtype} of {_times(array.shape)}.")
    return array


def open_units(path: Path, num_units: int) -> Int64[np.ndarray, " units"]:
    """The number of each unit; 0, 1, 2… where there is no such file."""
    if not path.exists():
        return np.arange(num_units, dtype=np.int64)
    units = load_array(path, mapped=False)
    whole = units.ndim == 1 and np.issubdtype(units.dtype, np.integer) and len(units) == num_units
    if not whole or len(np.unique(units)) != num_units or units.min() < 0:
        raise DescriptionsError(
            f"{path}: expected {num_units} different unit numbers from 0, one for each row of images.npy."
        )
    return units.astype(np.int64)


def load_array(path: Path, *, mapped: bool) -> np.ndarray:
    """The array in a file, with nothing unpickled."""
    try:
        loaded = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except FileNotFoundError as error:
        raise DescriptionsError(f"{path}: expected a NumPy array here, and there is no such file.") from error
    except (ValueError, EOFError, OSError) as error:
        raise DescriptionsError(f"{path}: expected a whole NumPy array without pickled objects: {error}") from error
    if not isinstance(loaded, np.ndarray):
        raise DescriptionsError(f"{path}: expected one NumPy array, found an archive of several.")
    return loaded


def _times(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "a single number"


def _number_images(rows: tuple[tuple[_Layer, int], ...]) -> Int64[np.ndarray, "neurons k"]:
    """The same number for exemplars with the same pixels, in the order in which they first occur.

    −1 where there is no exemplar: a black image with an empty region.
    """
    numbers: dict[Hashable, int] = {}
    found = np.full((len(rows), max(layer.images.shape[1] for layer, _ in rows)), -1, dtype=np.int64)
    for neuron, (layer, row) in enumerate(rows):
        for rank, shown in enumerate(layer.images[row]):
            content = _content(shown, layer.masks[row, rank])
            if content is not None:
                found[neuron, rank] = numbers.setdefault(content, len(numbers))
    return found


def _content(shown: np.ndarray | np.int64, mask: np.ndarray) -> Hashable | None:
    """What tells an exemplar's image from others: its photograph's number, or its pixels; none where there is none."""
    if shown.ndim == 0:
        return int(shown) if shown >= 0 else None
    if not shown.any() and not mask.any():
        return None
    return shown.shape, hashlib.blake2b(shown.tobytes(), digest_size=16).digest()


def _first_shown(images: Int64[np.ndarray, "neurons k"]) -> Int64[np.ndarray, "images 2"]:
    numbers, first = np.unique(images, return_index=True)
    places = np.stack(np.unravel_index(first[numbers >= 0], images.shape), axis=1)
    return places.astype(np.int64)


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
