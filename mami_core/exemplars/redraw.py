"""Regions drawn anew, on a grid of any size: a run keeps them on 56 cells a side."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Bool, Int64

from mami_core.exemplars.given import batches_for, vanished
from mami_core.exemplars.pairs import pairs_of
from mami_core.exemplars.reading import Draw, RegionReader
from mami_core.images import Files
from mami_core.subjects import Subject

_PAIRS_AT_ONCE = 1024


@dataclass(frozen=True, slots=True, eq=False)
class Regions:
    """Some exemplars' regions."""

    rows: Int64[np.ndarray, " pairs"]
    """Each neuron's row in the exemplars table."""
    ranks: Int64[np.ndarray, " pairs"]
    masks: Bool[np.ndarray, "pairs size size"]


def redraw(
    subject: Subject, exemplars: pa.Table, images: pa.Table, files: Files, *, draw: Draw, size: int, batch_size: int
) -> Iterator[Regions]:
    """The regions of all exemplars (`contracts.EXEMPLARS`), from running the subject over their images once more.

    `images` (`contracts.IMAGES`) must hold those images; with the run's own batch size, activations are the run's to
    the bit.

    Raises:
        ImageError: an image cannot be read any more.
    """
    pairs = pairs_of(exemplars, images["image"].to_numpy())
    shown = images.filter(pc.is_in(images["image"], pa.array(np.unique(pairs.images))))
    reader = RegionReader(pairs, subject.device, draw, first_units=subject.first_units)
    stream = batches_for(subject, shown, files, batch_size=batch_size, on_error=vanished)
    with torch.inference_mode(), subject.trace(pairs.layer_names) as maps:
        for batch in stream:
            numbers = batch.images[: batch.num_valid].numpy()
            first, end = (np.searchsorted(pairs.images, numbers, side=side) for side in ("left", "right"))
            rows = np.repeat(np.arange(len(numbers)), end - first)
            subject.read(batch.pixels[0].to(subject.device), maps.run)
            for start in range(0, len(rows), _PAIRS_AT_ONCE):
                of_pairs = rows[start : start + _PAIRS_AT_ONCE]
                some = slice(int(first[0]) + start, int(first[0]) + start + len(of_pairs))
                (masks,), places = reader.read(maps, some, of_pairs, (size,))
                found = some.start + places
                yield Regions(pairs.rows[found], pairs.ranks[found], masks.cpu().numpy())
