"""The images that MILAN searched, by the numbers that its ids.csv gives them.

MILAN numbers them as torchvision's ImageFolder does: classes in the order of their names, in a class its files in the
order of theirs. Its script that completes MILANNOTATIONS stretches each to the size of its masks, and so is it here,
to the last bit; what has no such order of its own (a list, Parquet, tars) is numbered as it stands.
"""

import io
import posixpath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import UInt8
from PIL import Image

from mami_core.errors import DescriptionsError, ImageError
from mami_core.images import MAX_PIXELS, Files, open_source, read_bytes
from mami_core.images.pixels import FORMATS

_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""What ImageFolder takes for an image."""


class SearchedImages:
    """Implements `Photographs`: read one by one, from wherever images may be (`images.open_source`)."""

    def __init__(self, source: str, files: Files) -> None:
        """Lists the source.

        Raises:
            ImageSourceError: there are no images.
        """
        found = open_source(source, files)
        self.where, self._files, self._rows = source, files, _numbered(found.images)
        self.fingerprint = found.names
        """Changes when their names or sizes do."""

    def __len__(self) -> int:
        return self._rows.num_rows

    def name(self, number: int) -> str:
        """Its name in the source."""
        return str(self._rows["key"][number].as_py())

    def pixels(self, number: int, height: int, width: int) -> UInt8[np.ndarray, "3 h w"]:
        """One of them, stretched to this size.

        Raises:
            DescriptionsError: it cannot be read.
        """
        ((_, data),) = read_bytes(self._rows.slice(number, 1), self._files)
        try:
            if isinstance(data, ImageError):
                raise data
            return _stretched(data, height, width)
        except Exception as problem:  # damaged bytes make decoders raise nearly anything
            raise DescriptionsError(
                f"{self.where}: image {number} ({self.name(number)}) cannot be read: {problem}"
            ) from problem


def _numbered(images: pa.Table) -> pa.Table:
    """The images in ImageFolder's order where they are files in folders; otherwise as they are."""
    # Of a file in a folder the size is known and no more; of those in a list not even that.
    files = pc.and_(pc.is_valid(images["size"]), pc.is_null(images["offset"]))
    if not pc.all(files).as_py():
        return images
    keys = images["key"].to_pylist()
    in_classes = any("/" in key for key in keys)
    wanted = [
        number for number, key in enumerate(keys) if key.lower().endswith(_SUFFIXES) and ("/" in key or not in_classes)
    ]
    order = sorted(wanted, key=lambda number: (keys[number].split("/")[0], *posixpath.split(keys[number])))
    return images.take(pa.array(order, pa.int64()))


def _stretched(data: bytes, height: int, width: int) -> UInt8[np.ndarray, "3 h w"]:
    photo = Image.open(io.BytesIO(data), formats=FORMATS)
    if photo.width * photo.height > MAX_PIXELS:
        raise ImageError(f"{photo.width} x {photo.height} pixels are more than the {MAX_PIXELS} allowed")
    pixels = photo.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(pixels).transpose(2, 0, 1))
