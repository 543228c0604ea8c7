"""The bytes of one image → square RGB pixels.

Everything sees the same field of view: the centred square whose side is `crop` times the image's short side. It is
resized to what a network wants, a square or not, with that network's filter: the antialiased bilinear and bicubic ones
of `torch.nn.functional.interpolate`, which for uint8 give Pillow's result (within one grey level) at a third of its
time, or Pillow's own.

The legend of the shapes: arrays are height x width x 3, as they leave the decoders; tensors are 3 x height x width
views of the same memory (channels last).
"""

import io
import math
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional

from mami_core.errors import ConfigError, ImageError
from mami_core.images import jpeg_operators
from mami_core.images.jpeg_header import plain_size
from mami_core.sizes import Size

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""What is decoded. Pillow knows forty more, some of which run other programs or are rarely looked after."""

MAX_PIXELS = 178_956_970
"""Above this, 13,377 x 13,377, an image is refused from its header alone: where Pillow, too, sees an attack. Decoding
one of this size takes 3 GB for a moment; JPEGs of any size, being decoded small, far less."""

# What the EXIF orientation says of the stored pixels: mirror x, mirror y, and after that exchange x and y.
_ORIENTATIONS = {
    1: (False, False, False),
    2: (True, False, False),
    3: (True, True, False),
    4: (False, True, False),
    5: (False, False, True),
    6: (False, True, True),
    7: (True, True, True),
    8: (True, False, True),
}
_EXIF_ORIENTATION = 0x0112
_TO_RGB = 3  # torchvision.io.ImageReadMode.RGB


def decode(data: bytes, *, sizes: Sequence[int | Size], crop: float) -> list[UInt8[Tensor, "3 _ _"]]:
    """The image as pixels from 0 to 255 in each of the `sizes`; a number is the side of a square, bilinear.

    Of an animation the first frame; what is transparent lies on white; 16-bit grey is scaled to 8; CMYK, palettes and
    grey become RGB; the EXIF orientation is applied. What one size gives does not depend on the others, nor on
    the number of threads.

    Raises:
        ImageError: whatever is wrong with the bytes, in a few words.
    """
    if not sizes or not 0 < crop <= 1:
        raise ConfigError(f"expected sizes of at least 1 and a crop in (0, 1], got sizes {list(sizes)}, crop {crop}")
    wanted = [Size.of(size) for size in sizes]
    try:
        squares = _squares(data, wanted, crop)
    except ImageError:
        raise
    except Exception as problem:  # Damaged bytes make the decoders raise nearly anything, MemoryError included.
        raise ImageError(_reason(problem)) from problem
    return [_resize(square, size) for square, size in zip(squares, wanted, strict=True)]


def _squares(data: bytes, sizes: Sequence[Size], crop: float) -> list[UInt8[np.ndarray, "side side 3"]]:
    """The field of view for each size, decoded once where the same resolution serves several."""
    if not data:
        raise ImageError("the file is empty")
    if (square := _plain_square(data, sizes, crop)) is not None:
        return [square] * len(sizes)
    photo = Image.open(io.BytesIO(data), formats=FORMATS)  # Reads the header only.
    if photo.width * photo.height > MAX_PIXELS:
        raise ImageError(f"{photo.width} x {photo.height} pixels are more than the {MAX_PIXELS} allowed")
    jpeg = photo.format in ("JPEG", "MPO")
    scales = [_scale(*photo.size, crop, size) if jpeg else 1 for size in sizes]
    by_scale = {scale: _square(data, photo, crop, scale) for scale in sorted(set(scales))}
    return [by_scale[scale] for scale in scales]


def _plain_square(data: bytes, sizes: Sequence[Size], crop: float) -> UInt8[np.ndarray, "side side 3"] | None:
    """The field of view of a JPEG like most, of which all pixels are needed; what Pillow would do, without Pillow."""
    found = plain_size(data)
    if not found or math.prod(found) > MAX_PIXELS or any(_scale(*found, crop, size) > 1 for size in sizes):
        return None
    try:
        return _upright(_jpeg(data), view_in(*found, crop))
    except RuntimeError:  # Damaged, or no such decoder: Pillow decides, and knows what to say.
        return None


def _scale(width: int, height: int, crop: float, size: Size) -> int:
    """How many times smaller a JPEG may be decoded, by leaving out its high frequencies: 1, 2, 4 or 8.

    What is left has twice the size wanted, so that the filter, not the JPEG's blocks, decides how it looks.
    """
    room = crop * min(width, height) / (2 * max(size.height, size.width))
    return next(scale for scale in (8, 4, 2, 1) if scale <= max(room, 1))


def _square(data: bytes, photo: Image.Image, crop: float, scale: int) -> UInt8[np.ndarray, "side side 3"]:
    """The field of view, upright, from the image decoded at 1/scale."""
    if scale > 1:
        photo = Image.open(io.BytesIO(data), formats=FORMATS)
        photo.draft(None, (photo.width // scale, photo.height // scale))
    elif photo.format in ("JPEG", "MPO") and photo.mode in ("RGB", "L"):
        with suppress(RuntimeError):  # as above
            return _upright(_jpeg(data), view_of(photo, crop))
    photo.load()
    return _upright(photo, view_of(photo, crop))


def _jpeg(data: bytes) -> UInt8[np.ndarray, "height width 3"]:
    """The same pixels as Pillow's, from the same library, without Pillow's detour over four bytes a pixel.

    It takes a fifth off the whole of `decode`. Called by its name among torch's operators, because torchvision means
    to drop the Python function around it; where the operator is gone, Pillow does the work.
    """
    jpeg_operators.load()
    try:
        decode_jpeg = torch.ops.image.decode_jpeg
    except AttributeError as problem:
        raise RuntimeError("this torchvision decodes no JPEG") from problem
    pixels: Tensor = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), _TO_RGB, False)
    return pixels.permute(1, 2, 0).numpy()  # Channels last already.


@dataclass(frozen=True, slots=True)
class View:
    """What is seen of an image: a centred square of its stored pixels, and how it is turned upright."""

    left: int
    top: int
    side: int
    mirror_x: bool
    mirror_y: bool
    exchange: bool
    """x and y, after mirroring."""

    @property
    def turned(self) -> bool:
        """Whether the image does not lie upright already."""
        return self.mirror_x or self.mirror_y or self.exchange

    def of(self, pixels: UInt8[Tensor, "*images 3 height width"]) -> UInt8[Tensor, "*images 3 side side"]:
        """The square, upright."""
        square = pixels[..., self.top : self.top + self.side, self.left : self.left + self.side]
        axes = [axis for axis, mirrored in ((-2, self.mirror_y), (-1, self.mirror_x)) if mirrored]
        square = square.flip(axes) if axes else square
        return square.transpose(-2, -1) if self.exchange else square


def view_of(photo: Image.Image, crop: float) -> View:
    """What is seen of a photo whose size and header are known."""
    return view_in(*photo.size, crop, orientation=_orientation(photo))


def view_in(width: int, height: int, crop: float, *, orientation: int = 1) -> View:
    """What is seen of pixels that lie as EXIF's orientation says."""
    mirror_x, mirror_y, exchange = _ORIENTATIONS.get(orientation, _ORIENTATIONS[1])
    side = max(1, round(crop * min(width, height)))
    left, top = _margin(width, side, mirrored=mirror_x), _margin(height, side, mirrored=mirror_y)
    return View(left, top, side, mirror_x, mirror_y, exchange)


def _upright(pixels: UInt8[np.ndarray, "height width 3"] | Image.Image, view: View) -> UInt8[np.ndarray, "side side 3"]:
    """What is seen of the pixels, cut before turning so that only the square is converted and copied."""
    right, bottom = view.left + view.side, view.top + view.side
    if isinstance(pixels, Image.Image):
        square = _rgb(pixels.crop((view.left, view.top, right, bottom)), pixels.format)
    else:
        square = pixels[view.top : bottom, view.left : right]
    if not view.turned:
        return square  # Nearly all: torch reads the part of the photo where it lies.
    square = square[:: -1 if view.mirror_y else 1, :: -1 if view.mirror_x else 1]
    return np.ascontiguousarray(square.transpose(1, 0, 2) if view.exchange else square)


def _margin(length: int, side: int, *, mirrored: bool) -> int:
    before = (length - side) // 2
    return length - side - before if mirrored else before


def _orientation(photo: Image.Image) -> int:
    if photo.format == "JPEG" and not {"exif", "xmp"} & photo.info.keys():
        return 1  # looking for what is not there takes as long as all the rest of the header
    try:
        return photo.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # Damaged EXIF says nothing of the pixels.
        return 1


def _rgb(square: Image.Image, kind: str | None) -> UInt8[np.ndarray, "side side 3"]:
    if square.mode.startswith("I;16") or (square.mode == "I" and kind in ("PNG", "PPM")):
        grey = (np.asarray(square).astype(np.uint32) + 128) // 257  # 65535 / 257 = 255, rounded to the nearest.
        return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)
    if square.mode in ("I", "F"):
        raise ImageError(f"{'float' if square.mode == 'F' else '32-bit'} pixels, whose range nothing states")
    if square.has_transparency_data:
        colours = square.convert("RGBA")
        square = Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours)
    square = square if square.mode == "RGB" else square.convert("RGB")
    return np.array(square)  # A copy that may be written to, as torch wants it.


def _resize(square: UInt8[np.ndarray, "side side 3"], size: Size) -> UInt8[Tensor, "3 height width"]:
    shape = (size.height, size.width)
    if square.shape[:2] != shape and size.filter not in ("bilinear", "bicubic"):
        picture = Image.fromarray(square).resize(shape[::-1], Image.Resampling[size.filter.upper()])
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    pixels = torch.from_numpy(square)[None].permute(0, 3, 1, 2)  # Channels last, also in the eyes of torch.
    if square.shape[:2] != shape:
        pixels = functional.interpolate(pixels, size=shape, mode=size.filter, antialias=True)
    return pixels[0]


def _reason(problem: Exception) -> str:
    """A short reason that is the same in every run: without the addresses that Pillow puts in its messages."""
    if isinstance(problem, UnidentifiedImageError):
        return f"not one of {', '.join(FORMATS)}, or its header is damaged"
    message = " ".join(re.sub(r"<[^>]*>", "", str(problem)).split())
    return f"cannot be decoded: {message or type(problem).__name__}"[:200]
