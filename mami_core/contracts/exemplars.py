"""Neurons with the images that drive them: exemplars, their features and their regions."""

from dataclasses import dataclass

import pyarrow as pa

from mami_core.contracts.arrow import required, table


@dataclass(frozen=True, slots=True, kw_only=True)
class ExemplarsRow:
    """One neuron with the images that drive it highest. A neuron that never fires has no exemplars."""

    subject: str
    layer: str
    unit: int
    images: list[int]
    """Image numbers, strongest first; at most k, only images on which the neuron is active."""
    keys: list[str]
    """The same images' names."""
    activations: list[float]
    """The neuron's highest activation on each."""
    threshold: float
    """What a position must exceed to belong to the region: the quantile over all positions of all images."""
    active_fraction: float
    """Share of all positions of all images with an activation above zero."""


EXEMPLARS = table(
    "exemplars",
    1,
    [
        required("subject", pa.string()),
        required("layer", pa.string()),
        required("unit", pa.int32()),
        required("images", pa.list_(required("item", pa.int64()))),
        required("keys", pa.list_(required("item", pa.string()))),
        required("activations", pa.list_(required("item", pa.float32()))),
        required("threshold", pa.float32()),
        required("active_fraction", pa.float64()),
    ],
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FeaturesRow:
    """What the encoder gives for one exemplar of one neuron."""

    layer: str
    unit: int
    rank: int
    """Which exemplar of the neuron, 0 being the strongest."""
    image: int
    vector: bytes
    """The feature vector: float16, little-endian, one after the other."""
    exponent: int
    """The vector's numbers are to be multiplied by 2^exponent: 0 unless one of them is beyond float16's 65,504."""
    region: bytes | None
    """Where in the image the neuron is active, as in `RegionsRow`; null where people drew it."""


REGION_SIDE = 56
"""Cells along each side of a stored region."""
_REGION = pa.binary(REGION_SIDE**2 // 8)


def features_schema(num_features: int) -> pa.Schema:
    """The features table's schema for vectors of `num_features` numbers.

    Fixed-size binary, because Arrow reads it eight times faster than lists of half-precision floats.
    """
    return table(
        "features",
        2,
        [
            required("layer", pa.string()),
            required("unit", pa.int32()),
            required("rank", pa.int16()),
            required("image", pa.int64()),
            required("vector", pa.binary(2 * num_features)),
            required("exponent", pa.int8()),
            pa.field("region", _REGION),
        ],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionsRow:
    """Where in each of its exemplars a neuron is active. `mami_core.labels.unpack_regions` makes grids of it."""

    subject: str
    layer: str
    unit: int
    regions: list[bytes]
    """One an exemplar, strongest first: `REGION_SIDE` × `REGION_SIDE` cells over the square that the subject sees, one
    bit a cell, rows from the top, the first cell of eight being a byte's highest bit."""


REGIONS = table(
    "regions",
    1,
    [
        required("subject", pa.string()),
        required("layer", pa.string()),
        required("unit", pa.int32()),
        required("regions", pa.list_(required("item", _REGION))),
    ],
)
