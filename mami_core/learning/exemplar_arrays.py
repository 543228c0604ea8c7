"""One layer's folder of exemplars, opened where it lies: arrays that are mapped, never loaded whole or unpickled.

Axes: units × k exemplars, strongest first.
"""

import hashlib
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8

from mami_core.errors import DescriptionsError


@runtime_checkable
class Photographs(Protocol):
    """Pictures by number, that exemplars share: the same number is the same picture."""

    @property
    def where(self) -> str:
        """Where they come from, for people."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes when they do."""
        ...

    def __len__(self) -> int: ...

    def name(self, number: int) -> str:
        """What people call one of them."""
        ...

    def pixels(self, number: int, height: int, width: int) -> UInt8[np.ndarray, "3 h w"]:
        """One of them; those that have a size already keep it."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class LayerArrays:
    """One layer's arrays."""

    images: UInt8[np.ndarray, "units k 3 h w"] | Int64[np.ndarray, "units k"]
    """Exemplars, or the numbers of their photographs, −1 for none."""
    masks: UInt8[np.ndarray, "units k 1 a b"] | Bool[np.ndarray, "units k 1 a b"]
    units: Int64[np.ndarray, " units"]
    photographs: Photographs | None
    """Whose numbers `images` holds, where it holds numbers."""
    activations: Float64[np.ndarray, "units k"] | None
    """Each unit's highest activation on each exemplar, where the folder says it."""
    shown: UInt8[np.ndarray, "units k phrases"] | None
    """How true each phrase is of each exemplar, where the folder says it."""

    def pixels(self, row: int, rank: int) -> UInt8[np.ndarray, "3 h w"]:
        """One exemplar."""
        if self.photographs is None:
            return self.images[row, rank]
        return self.photographs.pixels(int(self.images[row, rank]), *self.masks.shape[-2:])

    def count(self, row: int) -> int:
        """How many exemplars a unit has: where it has fewer than k, no number or black with an empty mask fills up."""
        ranks = range(self.images.shape[1], 0, -1)
        return next((rank for rank in ranks if self._is_there(row, rank - 1)), 0)

    def _is_there(self, row: int, rank: int) -> bool:
        shown = self.images[row, rank]
        return bool(shown >= 0 if self.photographs is not None else shown.any() or self.masks[row, rank].any())

    def content(self, row: int, rank: int) -> Hashable | None:
        """What tells an exemplar's image from others: its photograph, or its pixels; None for no photograph."""
        shown = self.images[row, rank]
        if self.photographs is not None:
            return (self.photographs.where, int(shown), self.masks.shape[-2:]) if shown >= 0 else None
        return shown.shape, hashlib.blake2b(shown.tobytes(), digest_size=16).digest()

    def versions(self) -> list[Hashable]:
        """Changes when the files do: the arrays, what the photographs are and show, and how high units were active."""
        shown = None if self.photographs is None else (_digest(self.images), self.photographs.fingerprint)
        active = None if self.activations is None else _digest(self.activations)
        return [*_stats(self.images, self.masks), shown, active]

    def name(self, row: int, rank: int) -> str | None:
        """What people call an exemplar's photograph; None where it has no name."""
        return None if self.photographs is None else self.photographs.name(int(self.images[row, rank]))


class PhotographsFolder:
    """The photographs that lie once beside the layers of a data set: uint8 [photographs, 3, height, width]."""

    def __init__(self, folder: Path) -> None:
        self.where = str(folder)
        shape = "photographs×3×height×width"
        self._parts = [open_array(path, shape, (None, 3, None, None)) for path in sorted(folder.glob("*.npy"))]
        self._starts = np.cumsum([0, *map(len, self._parts)])

    @property
    def fingerprint(self) -> str:
        """Changes when the sizes or times of its files do."""
        return repr(_stats(*self._parts))

    def __len__(self) -> int:
        return int(self._starts[-1])

    def name(self, number: int) -> str:
        """Its number."""
        return f"photograph {number}"

    def pixels(self, number: int, height: int, width: int) -> UInt8[np.ndarray, "3 h w"]:
        """As it lies there, whatever the size of the masks."""
        part = int(np.searchsorted(self._starts, number, side="right")) - 1
        return self._parts[part][number - self._starts[part]]


def open_layer(
    folder: Path, beside: PhotographsFolder, source: Photographs | None, *, num_phrases: int = 0
) -> LayerArrays:
    """One layer's arrays; with `num_phrases`, how true so many phrases are of its exemplars.

    Its pictures are its own, photographs `beside` the layers, or from the images that were searched (`source`).

    Raises:
        DescriptionsError: naming the file that is missing, of another type or shape, or does not match the others.
    """
    images, photographs = _open_images(folder, beside, source)
    k = (images.shape[0], images.shape[1])
    masks = open_masks(folder / "masks.npy", k, "as many units and k as images.npy")
    return LayerArrays(
        images=images,
        masks=masks,
        units=open_units(folder / "units.npy", len(images)),
        photographs=photographs,
        activations=read_table(folder / "activations.csv", k, np.float64),
        shown=_open_shown(folder / "shown.npy", (*k, num_phrases)) if num_phrases else None,
    )


def _open_images(
    folder: Path, beside: PhotographsFolder, source: Photographs | None
) -> tuple[np.ndarray, Photographs | None]:
    path = folder / "images.npy"
    if not path.exists() and (folder / "ids.csv").exists():
        return _numbers_of(folder, source), source
    numbers = load_array(path, mapped=True)
    if numbers.ndim != 2 or numbers.dtype != np.int64:
        return open_array(path, "units×k×3×height×width", (None, None, 3, None, None)), None
    _check_numbers(numbers, path, beside)
    return numbers, beside


def _numbers_of(folder: Path, source: Photographs | None) -> Int64[np.ndarray, "units k"]:
    """MILANNOTATIONS may not give ImageNet's pictures away, and says which they are instead."""
    if source is None:
        raise DescriptionsError(
            f"{folder}: has no images.npy, as MILANNOTATIONS' ImageNet parts are published. Name the images that its "
            "ids.csv numbers (--images), for ImageNet the folder of validation images, by class."
        )
    masks = open_masks(folder / "masks.npy", (None, None))
    numbers = read_table(folder / "ids.csv", masks.shape[:2], np.int64)
    assert numbers is not None, "it was there a moment ago"
    _check_numbers(numbers, folder / "ids.csv", source)
    return numbers


def _check_numbers(numbers: Int64[np.ndarray, "units k"], path: Path, photographs: Photographs) -> None:
    if 0 in numbers.shape or numbers.min() < -1 or numbers.max() >= len(photographs):
        raise DescriptionsError(
            f"{path}: expected numbers of the {len(photographs)} photographs in {photographs.where}, or -1; found "
            f"{_times(numbers.shape)} from {numbers.min(initial=0)} to {numbers.max(initial=0)}."
        )


def open_masks(path: Path, k: tuple[int | None, int | None], detail: str = "") -> np.ndarray:
    """A layer's masks, mapped: bytes, or what NumPy compared."""
    kind = "units×k×1×height×width" + (f", {detail}" if detail else "")
    return open_array(path, kind, (*k, 1, None, None), dtypes=(np.uint8, np.bool_))


def _open_shown(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    kind = "units×k×phrases, as many units and k as images.npy and as many phrases as phrases.json"
    if not path.is_file():
        raise DescriptionsError(
            f"{path}: expected what the layer's exemplars show, as phrases.json says that it is known, and there is no "
            "such file. Finish mami annotate, or remove phrases.json."
        )
    return open_array(path, f"{kind} ({_times(shape)})", shape)


def open_array(
    path: Path, kind: str, shape: tuple[int | None, ...], *, dtypes: tuple[type, ...] = (np.uint8,)
) -> np.ndarray:
    """A mapped array of bytes of this shape, of which None may be any number.

    Raises:
        DescriptionsError: another type or shape; `kind` says what was expected.
    """
    array = load_array(path, mapped=True)
    fits = array.ndim == len(shape) and all(want in (None, have) for want, have in zip(shape, array.shape, strict=True))
    if array.dtype not in dtypes or not fits or 0 in array.shape:
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


def read_table(file: Path, shape: tuple[int, ...], kind: type) -> np.ndarray | None:
    """One of MILAN's tables of numbers, a line a unit; None where there is none."""
    if not file.exists():
        return None
    try:
        table = np.loadtxt(file, delimiter=",", dtype=kind, ndmin=2)
    except ValueError as error:
        raise DescriptionsError(f"{file}: expected numbers, a line a unit: {error}") from error
    if table.shape != shape:
        raise DescriptionsError(f"{file}: expected {shape[0]} lines of {shape[1]} numbers, found {table.shape}.")
    return table


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


def _stats(*arrays: np.ndarray) -> list[tuple[int, int]]:
    """The sizes and times of the files of those that are mapped."""
    files = [Path(str(array.filename)).stat() for array in arrays if isinstance(array, np.memmap)]
    return [(file.st_size, file.st_mtime_ns) for file in files]


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


def _times(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "a single number"
