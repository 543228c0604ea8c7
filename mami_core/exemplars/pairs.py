"""The exemplars table turned around: what must be read off each image, for all the neurons it is an exemplar of."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True, slots=True)
class Pairs:
    """Exemplars of many neurons, one entry an exemplar, sorted by image: what must be read off each image."""

    images: np.ndarray
    """int64: image number, ascending."""
    rows: np.ndarray
    """int64: the neuron's row in the exemplars table."""
    ranks: np.ndarray
    """int64: which exemplar of the neuron."""
    layers: np.ndarray
    """int64: index into `layer_names`."""
    units: np.ndarray
    thresholds: np.ndarray
    layer_names: tuple[str, ...]

    def by_neuron(self) -> np.ndarray:
        """The order by the neurons' rows, then by rank."""
        return np.lexsort((self.ranks, self.rows))

    def take(self, order: np.ndarray) -> "Pairs":
        """These entries, in this order."""
        return Pairs(
            images=self.images[order],
            rows=self.rows[order],
            ranks=self.ranks[order],
            layers=self.layers[order],
            units=self.units[order],
            thresholds=self.thresholds[order],
            layer_names=self.layer_names,
        )

    def of_image(self, image: int) -> slice:
        """Where an image's entries are."""
        return slice(*np.searchsorted(self.images, [image, image + 1]))


def pairs_of(exemplars: pa.Table, images: np.ndarray | None = None) -> Pairs:
    """The exemplars of a table (`contracts.EXEMPLARS`), only those among the image numbers `images` if given."""
    column = exemplars["images"].combine_chunks()
    rows = pc.list_parent_indices(column).to_numpy(zero_copy_only=False)
    numbers = pc.list_flatten(column).to_numpy(zero_copy_only=False)
    first = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=exemplars.num_rows))])
    ranks = np.arange(len(rows)) - first[rows]
    chosen = np.arange(len(rows)) if images is None else np.flatnonzero(np.isin(numbers, images))
    chosen = chosen[np.argsort(numbers[chosen], kind="stable")]
    layers = exemplars["layer"].combine_chunks().dictionary_encode()
    of = rows[chosen]
    return Pairs(
        images=numbers[chosen],
        rows=of,
        ranks=ranks[chosen],
        layers=layers.indices.to_numpy(zero_copy_only=False)[of],
        units=exemplars["unit"].to_numpy()[of],
        thresholds=exemplars["threshold"].to_numpy()[of],
        layer_names=tuple(layers.dictionary.to_pylist()),
    )
