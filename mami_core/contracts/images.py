"""The images of a run."""

from dataclasses import dataclass

import pyarrow as pa

from mami_core.contracts.arrow import required, table


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRow:
    """Where the bytes of one image are."""

    image: int
    """Its number in the run, from 0 and without gaps: the order of the images, and what breaks ties."""
    key: str
    """Its name as people see it: a path below the source, or the member's name inside an archive."""
    path: str
    """The object that holds its bytes."""
    offset: int | None
    """First byte inside the object (archives only)."""
    size: int | None
    """Number of bytes (absent in Parquet, whose rows are compressed)."""
    row: int | None
    """Row number inside the object (Parquet only)."""
    column: str | None
    """The column that holds the bytes, where it is not the usual one (Parquet only)."""


IMAGES = table(
    "images",
    2,
    [
        required("image", pa.int64()),
        required("key", pa.string()),
        required("path", pa.string()),
        pa.field("offset", pa.int64()),
        pa.field("size", pa.int64()),
        pa.field("row", pa.int64()),
        pa.field("column", pa.string()),
    ],
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedRow:
    """An image that a generator made, with what it was made from."""

    key: str
    image: bytes
    """PNG."""
    latent: bytes
    """float32 numbers, little-endian, in the order of the latent's axes."""


GENERATED = table(
    "generated",
    1,
    [required("key", pa.string()), required("image", pa.binary()), required("latent", pa.binary())],
)
