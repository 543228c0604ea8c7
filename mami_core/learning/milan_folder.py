"""MILAN's folders of exemplars, read where they lie and written: what its scripts leave, and MILANNOTATIONS.

::

    annotations.csv            layer,unit,summary: what people said (MILANNOTATIONS)
    <layer>/images.npy         uint8 [units, k, 3, h, w]; absent where MILANNOTATIONS may not give pictures away
    <layer>/masks.npy          uint8 [units, k, 1, h, w]: 1 where the unit is active
    <layer>/units.npy          which units; absent where they are all
    <layer>/activations.csv    each unit's highest activation on each exemplar
    <layer>/ids.csv            the number of each exemplar's image in the images that were searched
    <layer>/viz…               pictures for people; passed over

Arrays are mapped into memory, never loaded whole. What is read and written again comes out byte for byte.
"""

import csv
import io
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from mami_core.errors import DescriptionsError
from mami_core.learning.descriptions import COLUMNS
from mami_core.learning.exemplar_arrays import load_array, open_array, open_masks, open_units, read_table

ANNOTATIONS = "annotations.csv"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ExemplarLayer:
    """The exemplars of one layer's units, strongest first."""

    images: UInt8[np.ndarray, "units k 3 h w"] | None
    masks: UInt8[np.ndarray, "units k 1 a b"]
    units: Int64[np.ndarray, " units"] | None
    """Which unit each row is of; None where they are all, in order."""
    activations: Float64[np.ndarray, "units k"] | None
    ids: Int64[np.ndarray, "units k"] | None

    @property
    def numbers(self) -> Int64[np.ndarray, " units"]:
        """Which unit each row is of."""
        return np.arange(len(self.masks)) if self.units is None else self.units.astype(np.int64)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class MilanFolder:
    """A network's layers, and what people said of their units where they did."""

    layers: Mapping[str, ExemplarLayer]
    annotations: list[list[str]] | None
    """The rows of annotations.csv, its header first."""


def read_folder(folder: str | Path) -> MilanFolder:
    """The layers of a folder, its arrays mapped.

    Raises:
        DescriptionsError: no layer, or naming the file that is of another type or shape.
    """
    folder = Path(folder)
    names = sorted(path.parent.name for path in folder.glob("*/masks.npy"))
    if not names:
        raise DescriptionsError(
            f"{folder}: expected folders of layers with masks.npy, as MILAN leaves them; found none."
        )
    annotations = folder / ANNOTATIONS
    rows = None
    if annotations.is_file():
        with annotations.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
    return MilanFolder(layers={name: read_layer(folder / name) for name in names}, annotations=rows)


def read_layer(folder: Path) -> ExemplarLayer:
    """One layer's exemplars.

    Raises:
        DescriptionsError: naming the file that is missing, or of another type or shape.
    """
    masks = open_masks(folder / "masks.npy", (None, None))
    images = folder / "images.npy"
    shape = (masks.shape[0], masks.shape[1], 3, None, None)
    kind = "units×k×3×height×width, as many units and k as masks.npy"
    units = folder / "units.npy"
    if units.exists():
        open_units(units, len(masks))  # looks at it
    return ExemplarLayer(
        images=open_array(images, kind, shape) if images.exists() else None,
        masks=masks,
        units=load_array(units, mapped=False) if units.exists() else None,
        activations=read_table(folder / "activations.csv", masks.shape[:2], np.float64),
        ids=read_table(folder / "ids.csv", masks.shape[:2], np.int64),
    )


def write_folder(made: MilanFolder, folder: str | Path) -> None:
    """Write the layers and annotations, as MILAN's scripts do."""
    folder = Path(folder)
    for name, layer in made.layers.items():
        write_layer(layer, folder / name)
    if made.annotations is not None:
        (folder / ANNOTATIONS).write_bytes(_csv(made.annotations, "\r\n"))


def write_layer(layer: ExemplarLayer, folder: Path) -> None:
    """Write one layer's files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in (("images", layer.images), ("masks", layer.masks), ("units", layer.units)):
        if isinstance(array, np.memmap) and array.filename is not None and array.flags.c_contiguous:
            shutil.copyfile(array.filename, folder / f"{name}.npy")  # whole files, mapped from their start
        elif array is not None:
            np.save(folder / f"{name}.npy", array)
    for name, table, form in (("activations", layer.activations, "%.5e"), ("ids", layer.ids, "%i")):
        if table is not None:
            np.savetxt(folder / f"{name}.csv", table, delimiter=",", fmt=form)


def descriptions_file(captions: Mapping[tuple[str, int], str]) -> bytes:
    """What MILAN says of neurons, as it writes it: layer, unit, description, each sentence with a capital."""
    rows = [["layer", "unit", "description"]]
    rows += [[layer, str(unit), as_sentences(text)] for (layer, unit), text in captions.items()]
    return _csv(rows, "\n")


def annotations_file(captions: Mapping[tuple[str, int], str]) -> bytes:
    """The same neurons as MILANNOTATIONS has what people say: layer, unit, summary."""
    return _csv([[*COLUMNS], *([layer, str(unit), text] for (layer, unit), text in captions.items())], "\r\n")


def as_sentences(text: str) -> str:
    """The text with a capital where a sentence begins, as MILAN writes its descriptions."""
    return ". ".join(sentence.strip().capitalize() for sentence in text.split(".")).strip()


def _csv(rows: list[list[str]], terminator: str) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator=terminator).writerows(rows)
    return text.getvalue().encode()
