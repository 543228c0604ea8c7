"""Which files a GPU decodes, and what is seen of them: known from their first bytes and their last."""

import io
from dataclasses import dataclass

from PIL import Image

from mami_core.images.jpeg_header import plain_size
from mami_core.images.pixels import FORMATS, View, view_in, view_of

_MOST_PIXELS = 1 << 25
"""Of an image that the GPU decodes; a CPU decodes larger ones at a part of their size."""
_END = b"\xff\xd9"


@dataclass(frozen=True, slots=True)
class Seen:
    """A picture's size, and what is seen of it."""

    width: int
    height: int
    view: View


def gpu_view(data: bytes, crop: float) -> Seen | None:
    """What is seen of a JPEG that the GPU can decode; None for everything else, damaged headers included.

    Also for one that is cut off, or has something behind its end: the GPU's decoder fills the rest of the former with
    what it happens to have at hand.
    """
    if not data.endswith(_END):
        return None
    if size := plain_size(data):
        return Seen(*size, view_in(*size, crop)) if size[0] * size[1] <= _MOST_PIXELS else None
    try:
        photo = Image.open(io.BytesIO(data), formats=FORMATS)
    except Exception:  # decoding on the CPU will say what is wrong
        return None
    suits = photo.format == "JPEG" and photo.mode in ("RGB", "L") and photo.width * photo.height <= _MOST_PIXELS
    return Seen(*photo.size, view_of(photo, crop)) if suits else None
