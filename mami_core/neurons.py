"""One neuron of a finished run, with everything that people look at: captions, scores, exemplars with their regions.

::

    neuron = find_neuron("RUN", "layer4", 12)
    neuron.show()          # a picture, also in a notebook
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Bool, UInt8

from mami_core import contracts
from mami_core.contracts import Beam
from mami_core.errors import ConfigError, ImageError, MissingObjectError
from mami_core.images import InThreads, LocalFiles
from mami_core.images.files import Files
from mami_core.labels import unpack_regions

if TYPE_CHECKING:
    from PIL import Image

SIDE = 224
"""Pixels along each side of an exemplar's photograph."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exemplar:
    """One image that drives a neuron high."""

    image: str
    """Its name."""
    activation: float
    region: Bool[np.ndarray, "cells cells"] = field(repr=False)
    """Where in the square that the subject sees the neuron is active."""
    photograph: UInt8[np.ndarray, "side side 3"] | None = field(repr=False)
    """That square; None where the image cannot be read any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Neuron:
    """What a run says of one neuron."""

    subject: str
    layer: str
    unit: int
    caption: str | None
    """None for a neuron that was active on no image."""
    score: float | None
    support: float | None
    """Of which share of the exemplars the caption is true, as the captioner reckons; None where nothing tells."""
    trust: float | None
    trust_shuffled: float | None
    """Of another neuron's caption: what trust has to beat."""
    beams: Sequence[Beam]
    exemplars: Sequence[Exemplar]

    @property
    def said(self) -> str:
        """The caption as people see it, also where there is none or nothing in it."""
        return "active on no image" if self.caption is None else self.caption or "(says nothing)"

    def picture(self) -> "Image.Image":
        """Captions, scores and exemplars, regions outlined, in one picture."""
        from mami_core.exemplars.sheet import draw  # needs Pillow's fonts, which reading does not

        title = f"{self.subject} / {self.layer} / {self.unit}"
        lines = [f"{beam.caption}  ({beam.score:.2f})" for beam in self.beams[1:]]
        numbers = {"score": self.score, "support": self.support, "trust": self.trust}
        said = in_words(numbers | {"trust of another's caption": self.trust_shuffled})
        pictures = [(each.photograph, each.region, each.activation, each.image) for each in self.exemplars]
        return draw(title, self.said, said, lines, pictures)

    def show(self) -> "Image.Image":
        """The picture: a notebook shows what its last line gives."""
        return self.picture()

    def _repr_png_(self) -> bytes | None:
        """What a notebook shows of the neuron itself."""
        return self.picture()._repr_png_()


def find_neuron(run: str, layer: str, unit: int, *, subject: str | None = None, files: Files | None = None) -> Neuron:
    """One neuron of a finished run.

    Args:
        run: The run's folder.
        layer: Its layer.
        unit: Its number there.
        subject: Its network, where the run has several.
        files: Where the run and its images are; by default on this machine's disk.

    Raises:
        ConfigError: the run has no such neuron, and says which it has; or there is no run.
        MissingObjectError: the run is not finished.
    """
    files, run = files or LocalFiles(), run.rstrip("/")
    try:
        plan = json.loads(files.read(f"{run}/_PLAN.json"))["config"]
    except MissingObjectError as error:
        raise ConfigError(f"{run} holds no labelling run: expected a folder that `mami label` made.") from error
    if "subjects" not in plan:
        raise ConfigError(f"{run} holds no labelling run: it keeps no photographs and regions that could be drawn.")
    subject = _subject(plan, subject)
    layers = _layers(plan["subjects"][subject])
    if unit not in layers.get(layer, ()):
        there = inventory(layers)
        raise ConfigError(f"{run} has no unit {unit} of layer {layer!r}. {subject} has, with their units: {there}.")
    label, where = (_row(files, f"{run}/{table}", subject, layer, unit) for table in ("labels", "regions"))
    exemplars = _row(files, f"{run}/exemplars", subject, layer, unit)
    photographs = _photographs(files, run, exemplars["images"], plan["subjects"][subject]["crop"])
    grids = unpack_regions(where["regions"])
    rows = zip(exemplars["images"], exemplars["keys"], exemplars["activations"], grids, strict=True)
    return Neuron(
        subject=subject,
        layer=layer,
        unit=unit,
        caption=label["caption"],
        score=label["score"],
        support=label.get("support"),
        trust=label.get("trust"),
        trust_shuffled=label.get("trust_shuffled"),
        beams=[Beam(**beam) for beam in label["beams"]],
        exemplars=[
            Exemplar(image=key, activation=activation, region=grid, photograph=photographs.get(image))
            for image, key, activation, grid in rows
        ],
    )


def in_words(numbers: Mapping[str, float | None]) -> str:
    """Those that are known, each after its name."""
    return ", ".join(f"{name} {value:.2f}" for name, value in numbers.items() if value is not None)


def inventory(layers: Mapping[str, range]) -> str:
    """In words, layers with the numbers of their units."""
    said = {name: f", from unit {units.start} on" if units.start else "" for name, units in layers.items()}
    return ", ".join(f"{name} ({len(units)}{said[name]})" for name, units in layers.items())


def _layers(subject: dict) -> dict[str, range]:
    """A subject's layers in a run's plan, each with the units that are labelled: not all, where a range was given."""
    first = subject.get("first_units", {})
    return {name: range(first.get(name, 0), first.get(name, 0) + count) for name, count in subject["layers"].items()}


def _subject(plan: dict, subject: str | None) -> str:
    names = list(plan["subjects"])
    subject = names[0] if subject is None and len(names) == 1 else subject
    if subject is None or subject not in names:
        raise ConfigError(f"Expected one of the run's subjects ({', '.join(names)}), got {subject or 'none'}.")
    return subject


def _row(files: Files, folder: str, subject: str, layer: str, unit: int) -> dict:
    """The neuron's row of a table, found by what each part says of itself."""
    for info in files.find(folder):
        if not info.path.endswith(".parquet"):
            continue
        with files.open(info.path) as file:
            table = pq.ParquetFile(file)
            keys = table.read(columns=["subject", "layer", "unit"])
            here = pc.and_(pc.equal(keys["subject"], subject), pc.equal(keys["layer"], layer))
            rows = np.flatnonzero(pc.and_(here, pc.equal(keys["unit"], unit)).to_numpy())
            if len(rows):
                return table.read().slice(int(rows[0]), 1).to_pylist()[0]
    raise MissingObjectError(f"{folder} has no row for unit {unit} of {layer}: the run is not finished.")


def _photographs(files: Files, run: str, images: Sequence[int], crop: float) -> dict[int, UInt8[np.ndarray, "s s 3"]]:
    """The exemplars' squares by image number, out of folders, Parquet and tars; without those that are gone."""
    (part,) = [info.path for info in files.find(f"{run}/images") if info.path.endswith(".parquet")]
    with files.open(part) as file:
        table = contracts.from_parquet(file, contracts.IMAGES, where=part)
    rows = table.filter(pc.is_in(table["image"], pa.array(images, pa.int64())))
    decoded = InThreads(2)(rows, files, sizes=(SIDE,), crop=crop, batch_size=16)
    return {
        image: squares[0].permute(1, 2, 0).numpy() for image, squares in decoded if not isinstance(squares, ImageError)
    }
