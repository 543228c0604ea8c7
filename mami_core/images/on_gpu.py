"""JPEG files decoded, cut and resized on an NVIDIA GPU.

What the GPU's decoder cannot do (other formats, CMYK, damaged files) the CPU does, image by image: so an image's
pixels depend on the image alone. They differ from those that a CPU decodes: another decoder rounds otherwise, and
large photographs are not decoded at a part of their size.
"""

import io
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator, Sequence
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
from mami_core.images import nvjpeg
from mami_core.images.ahead import ahead, threads
from mami_core.images.batch import Decoded, decoded
from mami_core.images.files import Files
from mami_core.images.jpeg_header import plain_size
from mami_core.images.pixels import FORMATS, View, view_in, view_of
from mami_core.images.read import Answer, read_bytes
from mami_core.sizes import Size

_TO_RGB = 3  # torchvision.io.ImageReadMode.RGB
_TOGETHER, _BYTES_TOGETHER = 256, 32 << 20
"""JPEGs that the decoder is given at once, and their bytes, at most: a few large ones take as much memory."""
_MOST_PIXELS = 1 << 25
"""Of an image that the GPU decodes; a CPU decodes larger ones at a part of their size."""
_PLANE_BYTES = 1 << 28
"""Of pixels that are decoded at once, about: JPEGs of one colour take a hundredth of the bytes of their pixels."""
_NUMBERS = 1 << 27
"""That are resized at once."""
_AHEAD = 3
"""So many lists, or batches if those are larger, are on their way: read, decoded, or resized and waiting."""


@dataclass(frozen=True, slots=True)
class OnGpu:
    """A `Decoder` whose pixels are on the GPU already, some batches ahead of the network."""

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
        work = _Work(torch.device(self.device), tuple(map(Size.of, sizes)), crop)
        limit = _AHEAD * max(batch_size, _TOGETHER)
        with (
            closing(read_bytes(images, files)) as answers,
            threads(self.num_threads, name="decode") as headers,
            threads(_AHEAD, name="decode") as pool,
        ):
            prepared = ahead(headers, work.prepare, _lists(answers), weight=len, limit=limit)
            for ready in ahead(pool, work.decode, prepared, weight=len, limit=limit):
                yield from ready.take()


def _lists(answers: Iterable[Answer]) -> Iterator[list[Answer]]:
    """What the decoder is given at once."""
    some: list[Answer] = []
    num_bytes = 0
    for image, data in answers:
        some.append((image, data))
        num_bytes += len(data) if isinstance(data, bytes) else 0
        if len(some) == _TOGETHER or num_bytes >= _BYTES_TOGETHER:
            yield some
            some, num_bytes = [], 0
    if some:
        yield some


@dataclass(frozen=True, slots=True)
class _File:
    """A JPEG that the GPU decodes."""

    image: int
    data: bytes
    seen: "Seen"


@dataclass(frozen=True, slots=True)
class _Prepared:
    """Some images that are ready to be decoded."""

    numbers: list[int]
    files: list[_File]
    encoded: Sequence[Tensor]
    """Their bytes, in memory from which a GPU copies by itself."""
    done: dict[int, list[Tensor] | ImageError]
    """The others' pixels, or what is wrong with them, by number."""

    def __len__(self) -> int:
        return len(self.numbers)


class _Work:
    """What the pieces of one pass over images have in common."""

    def __init__(self, device: torch.device, sizes: tuple[Size, ...], crop: float) -> None:
        self._device, self._sizes, self._crop = device, sizes, crop
        # Before the network's kernels, or else the network would wait for its own pixels.
        self._stream = torch.cuda.Stream(device, priority=-1)
        self._apart = torch.cuda.Stream(device, priority=-1)

    def prepare(self, answers: list[Answer]) -> _Prepared:
        """Reads headers, and decodes what the GPU cannot."""
        files: list[_File] = []
        done: dict[int, list[Tensor] | ImageError] = {}
        for image, data in answers:
            if isinstance(data, bytes) and (seen := gpu_view(data, self._crop)):
                files.append(_File(image, data, seen))
            else:
                done[image] = decoded(data, self._sizes, self._crop)
        return _Prepared([image for image, _ in answers], files, _pinned([file.data for file in files]), done)

    def decode(self, prepared: _Prepared) -> "_Ready":
        """The squares of some images on the GPU."""
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            memory: list[Tensor] = []
            found = prepared.done | self._squares(prepared, memory)
            for image, squares in found.items():
                if isinstance(squares, list) and not squares[0].is_cuda:
                    found[image] = there = [each.to(self._device) for each in squares]
                    memory += there
            done = torch.cuda.Event()
            done.record()
        done.synchronize()  # until then the decoder reads the files
        return _Ready([(image, found[image]) for image in prepared.numbers], memory)

    def _squares(self, prepared: _Prepared, memory: list[Tensor]) -> dict[int, list[Tensor] | ImageError]:
        """The files' squares, by image, in runs whose pixels do not fill the GPU."""
        found: dict[int, list[Tensor] | ImageError] = {}
        sizes = [3 * file.seen.width * file.seen.height for file in prepared.files]
        for run in runs(sizes, most=_PLANE_BYTES):
            found |= self._squares_of(prepared.files[run], prepared.encoded[run], memory)
        return found

    def _squares_of(
        self, files: Sequence[_File], encoded: Sequence[Tensor], memory: list[Tensor]
    ) -> dict[int, list[Tensor] | ImageError]:
        """The squares of some. Those of one size and view are worked on together, and lie in `memory`."""
        alike: dict[Seen, list[int]] = defaultdict(list)
        for place, file in enumerate(files):
            alike[file.seen].append(place)
        # Zeros: of a file that is cut off the decoder may leave rows as they are.
        planes = {
            seen: torch.zeros(len(places), 3, seen.height, seen.width, dtype=torch.uint8, device=self._device)
            for seen, places in alike.items()
        }
        rows = {place: row for seen, places in alike.items() for place, row in zip(places, planes[seen], strict=True)}
        able = self._filled(encoded, [rows[place] for place in range(len(rows))])
        found: dict[int, list[Tensor] | ImageError] = {}
        for seen, places in alike.items():
            squares = seen.view.of(planes[seen])
            at_once = max(1, _NUMBERS // squares[0].numel())
            by_size = {
                size: torch.cat([resize(some, size) for some in squares.split(at_once)]) for size in set(self._sizes)
            }
            memory += by_size.values()
            of_sizes = [by_size[size].unbind(0) for size in self._sizes]
            for place, *of_image in zip(places, *of_sizes, strict=True):
                file = files[place]
                # Where the GPU's decoder gave it up, the CPU says what is wrong.
                found[file.image] = of_image if able[place] else decoded(file.data, self._sizes, self._crop)
        return found

    def _filled(self, encoded: Sequence[Tensor], pixels: Sequence[Tensor]) -> list[bool]:
        """Decodes each file into its pixels; whether that was possible."""
        decoder = nvjpeg.decoder_on(self._device)
        try:
            able = decoder.decode(encoded, pixels, self._stream) if decoder else [False] * len(encoded)
        except RuntimeError:  # one of them is damaged
            able = [False] * len(encoded)
        triples = zip(able, encoded, pixels, strict=True)
        return [fine or self._filled_by_torchvision(file, planes) for fine, file, planes in triples]

    def _filled_by_torchvision(self, file: UInt8[Tensor, " _"], pixels: UInt8[Tensor, "3 height width"]) -> bool:
        """Progressive files too. It writes at once into memory of the stream that it is called on.

        So that stream has nothing else to do: memory that was let go is not read by anybody any more.
        """
        with torch.cuda.stream(self._apart):
            try:
                (found,) = torch.ops.image.decode_jpegs_cuda([file], _TO_RGB, self._device)
            except (RuntimeError, AttributeError):
                return False
            if found.shape != pixels.shape:
                return False
            self._apart.wait_stream(self._stream)
            pixels.copy_(found)
            self._apart.synchronize()
            return True


def runs(sizes: Sequence[int], *, most: int) -> Iterator[slice]:
    """Neighbours whose sizes add up to at most so much, or one that is larger."""
    first, total = 0, 0
    for place, size in enumerate(sizes):
        if place > first and total + size > most:
            yield slice(first, place)
            first, total = place, 0
        total += size
    if sizes:
        yield slice(first, len(sizes))


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


@dataclass(frozen=True, slots=True)
class Seen:
    """A picture's size, and what is seen of it."""

    width: int
    height: int
    view: View


def gpu_view(data: bytes, crop: float) -> Seen | None:
    """What is seen of a JPEG that the GPU can decode; None for everything else, damaged headers included."""
    if size := plain_size(data):
        return Seen(*size, view_in(*size, crop)) if size[0] * size[1] <= _MOST_PIXELS else None
    try:
        photo = Image.open(io.BytesIO(data), formats=FORMATS)
    except Exception:  # decoding on the CPU will say what is wrong
        return None
    suits = photo.format == "JPEG" and photo.mode in ("RGB", "L") and photo.width * photo.height <= _MOST_PIXELS
    return Seen(*photo.size, view_of(photo, crop)) if suits else None


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
