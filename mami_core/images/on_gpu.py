"""JPEG files decoded, cut and resized on an NVIDIA GPU.

What the GPU's decoder cannot do (other formats, CMYK, damaged files) the CPU does, image by image: so an image's
pixels depend on the image alone. They differ from those that a CPU decodes: another decoder rounds otherwise, and
large photographs are not decoded at a part of their size.
"""

import io
import struct
from collections import defaultdict
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional

from mami_core.errors import ConfigError, ImageError
from mami_core.images import jpeg_operators
from mami_core.images.ahead import ahead, chunks, threads
from mami_core.images.batch import Decoded, decoded
from mami_core.images.files import Files
from mami_core.images.pixels import FORMATS, MAX_PIXELS, View, view_in, view_of
from mami_core.images.read import Answer, read_bytes
from mami_core.sizes import Size

_TO_RGB = 3  # torchvision.io.ImageReadMode.RGB
_FRAMES, _SCAN = (0xC0, 0xC1, 0xC2), 0xDA
"""JPEG's markers of a picture's size, and of where its pixels begin."""
_PLAIN = frozenset((0xC4, 0xDB, 0xDD, 0xE0, 0xFE))
"""Markers of what only the decoder reads: tables, intervals, JFIF, comments. Not of EXIF, profiles, Adobe's colours."""
_TOGETHER = 256
"""JPEGs that the decoder is given at once."""


@dataclass(frozen=True, slots=True)
class OnGpu:
    """A `Decoder` whose pixels are on the GPU already, up to two batches ahead of the network."""

    device: str = "cuda"
    num_threads: int = 4
    """For what a CPU must do: headers, and the images that the GPU cannot decode."""

    def __post_init__(self) -> None:
        if self.num_threads < 1:
            raise ConfigError(f"expected at least 1 thread, got {self.num_threads}")

    def __call__(
        self, images: pa.Table, files: Files, *, sizes: Sequence[int | Size], crop: float, batch_size: int
    ) -> Generator[Decoded, None, None]:
        """As `Decoder` says."""
        work = _Work(torch.device(self.device), tuple(sizes), crop)
        limit = 2 * max(batch_size, _TOGETHER)
        with (
            closing(read_bytes(images, files)) as answers,
            threads(self.num_threads, name="decode") as headers,
            # The decoder works for one at a time; the other cuts and resizes meanwhile.
            threads(2, name="decode") as pool,
        ):
            prepared = ahead(headers, work.prepare, chunks(answers, _TOGETHER), weight=len, limit=limit)
            for ready in ahead(pool, work.decode, prepared, weight=len, limit=limit):
                yield from ready.take()


@dataclass(frozen=True, slots=True)
class _Prepared:
    """Some images that are ready to be decoded."""

    numbers: list[int]
    views: list[View | None]
    """What is seen of each image that the GPU decodes."""
    files: list[bytes]
    """Of these."""
    encoded: Sequence[Tensor]
    """The same in memory from which a GPU copies by itself."""
    done: list[list[Tensor] | ImageError | None]
    """The others' pixels, or what is wrong with them."""

    def __len__(self) -> int:
        return len(self.numbers)


class _Work:
    """What the pieces of one pass over images have in common."""

    def __init__(self, device: torch.device, sizes: tuple[int | Size, ...], crop: float) -> None:
        self._device, self._sizes, self._crop = device, sizes, crop
        # Ahead of the network's kernels in the queue, or else the network would wait for its own pixels.
        self._stream = torch.cuda.Stream(device, priority=-1)
        # torchvision's decoder has a stream of its own and writes into the current one's memory at once, also where
        # that was let go a moment ago and something still has to read it. So the memory has a stream for itself.
        self._decoding = torch.cuda.Stream(device, priority=-1)

    def prepare(self, answers: list[Answer]) -> _Prepared:
        """Reads headers, and decodes what the GPU cannot."""
        files, views, done = [], [], []
        for _, data in answers:
            view = gpu_view(data, self._crop) if isinstance(data, bytes) else None
            views.append(view)
            done.append(None if view else decoded(data, self._sizes, self._crop))
            if view and isinstance(data, bytes):
                files.append(data)
        return _Prepared([image for image, _ in answers], views, files, _pinned(files), done)

    def decode(self, prepared: _Prepared) -> "_Ready":
        """The squares of some images on the GPU."""
        with torch.inference_mode():
            with torch.cuda.stream(self._decoding):
                every = _decoded(prepared.encoded, self._device)
            self._stream.wait_stream(self._decoding)
            with torch.cuda.stream(self._stream):
                ready = self._cut(prepared, every)
                done = torch.cuda.Event()
                done.record()
        done.synchronize()  # only now may the decoder have its memory again
        return ready

    def _cut(self, prepared: _Prepared, every: list[Tensor | None]) -> "_Ready":
        stacks, rows = self._squares(every, [view for view in prepared.views if view])
        found: list[Decoded] = []
        of_files = iter(zip(prepared.files, rows, strict=True))
        for image, view, squares in zip(prepared.numbers, prepared.views, prepared.done, strict=True):
            if view:
                data, squares = next(of_files)
                # Where the GPU's decoder gave it up, the CPU says what is wrong.
                squares = decoded(data, self._sizes, self._crop) if squares is None else squares
            if isinstance(squares, list) and not squares[0].is_cuda:
                squares = [each.to(self._device) for each in squares]
                stacks += squares
            assert squares is not None
            found.append((image, squares))
        return _Ready(found, stacks)

    def _squares(self, every: list[Tensor | None], views: list[View]) -> tuple[list[Tensor], list[list[Tensor] | None]]:
        """The resized squares, those of equal side together, and each file's, one a size; None where it has none."""
        by_side: dict[int, list[int]] = defaultdict(list)
        for number, pixels in enumerate(every):
            if pixels is not None:
                by_side[views[number].side].append(number)
        stacks: list[Tensor] = []
        found: list[list[Tensor] | None] = [None] * len(every)
        for numbers in by_side.values():
            squares = torch.stack([views[number].of(every[number]) for number in numbers])  # pyrefly: ignore
            by_size = {size: resize(squares, Size.of(size)) for size in set(self._sizes)}
            stacks += by_size.values()
            rows = [by_size[size].unbind(0) for size in self._sizes]
            for number, *of_sizes in zip(numbers, *rows, strict=True):
                found[number] = of_sizes
        return stacks, found


@dataclass(frozen=True, slots=True)
class _Ready:
    """Images that have been decoded on the GPU."""

    found: list[Decoded]
    memory: list[Tensor]
    """Where their pixels are."""

    def take(self) -> list[Decoded]:
        """The images, for work on the current stream, which keeps their memory until it is done."""
        for each in self.memory:
            each.record_stream(torch.cuda.current_stream(each.device))
        return self.found


def gpu_view(data: bytes, crop: float) -> View | None:
    """What is seen of a JPEG that the GPU can decode; None for everything else, damaged headers included."""
    if size := _plain_size(data):
        return view_in(*size, crop) if size[0] * size[1] <= MAX_PIXELS else None
    try:
        photo = Image.open(io.BytesIO(data), formats=FORMATS)
    except Exception:  # decoding on the CPU will say what is wrong
        return None
    suits = photo.format == "JPEG" and photo.mode in ("RGB", "L") and photo.width * photo.height <= MAX_PIXELS
    return view_of(photo, crop) if suits else None


def _plain_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a JPEG whose header holds nothing but what nearly all do; None for all others.

    A quarter of the time that Pillow takes, which is as long as the GPU needs for the pixels.
    """
    if data[:2] != b"\xff\xd8":
        return None
    size, at = None, 2
    while at + 10 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == _SCAN:
            return size
        if marker in _FRAMES:
            precision, height, width, components = struct.unpack_from(">BHHB", data, at + 4)
            size = (width, height) if precision == 8 and components in (1, 3) and min(width, height) else None
        elif marker not in _PLAIN:
            return None
        at += 2 + (data[at + 2] << 8) + data[at + 3]
    return None


def _pinned(files: Sequence[bytes]) -> Sequence[UInt8[Tensor, " _"]]:
    """The files one after the other in one piece of memory: from other memory the driver copies each by itself."""
    if not files:
        return []
    sizes = [len(data) for data in files]
    together = torch.empty(sum(sizes), dtype=torch.uint8, pin_memory=torch.cuda.is_available())
    parts = together.split(sizes)
    for part, data in zip(parts, files, strict=True):
        part.numpy()[:] = np.frombuffer(data, np.uint8)
    return parts


def _decoded(encoded: Sequence[UInt8[Tensor, " _"]], device: torch.device) -> list[Tensor | None]:
    """The files' pixels; where not all can be decoded, those that can are found one by one."""
    if not encoded:
        return []
    try:
        jpeg_operators.load()
        return list(torch.ops.image.decode_jpegs_cuda(list(encoded), _TO_RGB, device))
    except RuntimeError:
        if len(encoded) == 1:
            return [None]
        return [pixels for each in encoded for pixels in _decoded([each], device)]


def resize(squares: UInt8[Tensor, "n 3 side side"], size: Size) -> UInt8[Tensor, "n 3 height width"]:
    """With the size's filter, antialiased; channels last."""
    shape = (size.height, size.width)
    if squares.shape[2:] == shape:
        return squares.contiguous(memory_format=torch.channels_last)
    if size.filter not in ("bilinear", "bicubic"):
        raise ConfigError(
            f"A GPU resizes bilinearly or bicubically, not with {size.filter}: leave out decode_on 'gpu'."
        )
    found = functional.interpolate(squares.float(), size=shape, mode=size.filter, antialias=True)
    return found.round_().clamp_(0, 255).to(torch.uint8, memory_format=torch.channels_last)
