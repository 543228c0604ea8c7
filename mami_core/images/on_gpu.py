"""JPEG files decoded, cut and resized on an NVIDIA GPU.

What the GPU's decoder cannot do (other formats, CMYK, damaged files) the CPU does, image by image: so an image's
pixels depend on the image alone. They differ from those that a CPU decodes: another decoder rounds otherwise, and
large photographs are not decoded at a part of their size.
"""

import os
from collections import defaultdict
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue

import pyarrow as pa
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn import functional

from mami_core.errors import ConfigError, ImageError
from mami_core.images import nvjpeg
from mami_core.images.ahead import ahead, runs, threads
from mami_core.images.batch import Decoded, decoded
from mami_core.images.files import Files
from mami_core.images.jpeg_view import Seen
from mami_core.images.read_ahead import MOST_TOGETHER, num_readers_for, read_ahead, weight_of
from mami_core.images.readers import Read
from mami_core.sizes import Size

_TO_RGB = 3  # torchvision.io.ImageReadMode.RGB
_PLANE_BYTES = 1 << 28
"""Of pixels that a lane decodes at once, about: JPEGs of one colour take a hundredth of the bytes of their pixels."""
_NUMBERS = 1 << 27
"""That a lane resizes at once."""
_AHEAD = 3
"""So many lists, or batches if those are larger, are on their way: read, decoded, or resized and waiting."""


@dataclass(frozen=True, slots=True)
class OnGpu:
    """A `Decoder` whose pixels are on the GPU already, some batches ahead of the network."""

    device: str = "cuda"
    num_threads: int = 4
    """For the images that the GPU cannot decode."""
    num_readers: int | None = None
    """Processes that read files and headers, where there are many; by default one for four CPUs, and at most four."""

    def __post_init__(self) -> None:
        if self.num_threads < 1 or (self.num_readers or 0) < 0:
            raise ConfigError(
                f"expected at least 1 thread and 0 readers, got {self.num_threads} and {self.num_readers}"
            )

    def __call__(
        self, images: pa.Table, files: Files, *, sizes: Sequence[int | Size], crop: float, batch_size: int
    ) -> Generator[Decoded, None, None]:
        """As `Decoder` says."""
        device, sizes = torch.device(self.device), tuple(map(Size.of, sizes))
        limit = _AHEAD * max(batch_size, MOST_TOGETHER)
        num_readers = num_readers_for(os.cpu_count() or 1) if self.num_readers is None else self.num_readers
        with (
            closing(read_ahead(images, files, crop, limit=limit, num_readers=num_readers)) as lists,
            threads(self.num_threads, name="decode") as pillow,
            threads(_AHEAD, name="decode") as pool,
        ):
            prepared = ahead(pillow, partial(_prepare, sizes, crop), lists, weight=weight_of, limit=limit)
            lanes = _Lanes(device, sizes, crop)
            for ready in ahead(pool, lanes.decode, prepared, weight=lambda some: some.weight, limit=limit):
                yield from ready.take()


@dataclass(frozen=True, slots=True)
class _Prepared:
    """Some images that are ready to be decoded."""

    numbers: list[int]
    files: list["_File"]
    """Those that the GPU decodes."""
    done: dict[int, list[Tensor] | ImageError]
    """The others' pixels, or what is wrong with them, by number."""
    weight: int
    """As `weight_of` has it."""


@dataclass(frozen=True, slots=True)
class _File:
    """A JPEG that the GPU decodes."""

    image: int
    seen: Seen
    encoded: UInt8[Tensor, " _"]
    """In memory from which a GPU copies by itself."""


def _prepare(sizes: tuple[Size, ...], crop: float, some: Sequence[Read]) -> _Prepared:
    """Decodes what the GPU cannot."""
    files: list[_File] = []
    done: dict[int, list[Tensor] | ImageError] = {}
    for image, data, seen in some:
        if seen and isinstance(data, Tensor):
            files.append(_File(image, seen, data))
        else:
            done[image] = _by_cpu(data, sizes, crop)
    return _Prepared([image for image, _, _ in some], files, done, weight_of(some))


def _by_cpu(data: Tensor | ImageError, sizes: tuple[Size, ...], crop: float) -> list[Tensor] | ImageError:
    return decoded(data.numpy().tobytes() if isinstance(data, Tensor) else data, sizes, crop)


class _Lanes:
    """As many lists are decoded side by side as are on their way: the decoder waits for each picture by itself."""

    def __init__(self, device: torch.device, sizes: tuple[Size, ...], crop: float) -> None:
        self._free: SimpleQueue[_Lane] = SimpleQueue()
        for number in range(_AHEAD):
            self._free.put(_Lane(number, device, sizes, crop))

    def decode(self, prepared: _Prepared) -> "_Ready":
        """The squares of some images on the GPU."""
        lane = self._free.get()
        try:
            return lane.decode(prepared)
        finally:
            self._free.put(lane)


class _Lane:
    """Decodes one list after the other, on a stream and with a decoder of its own."""

    def __init__(self, number: int, device: torch.device, sizes: tuple[Size, ...], crop: float) -> None:
        self._number, self._device, self._sizes, self._crop = number, device, sizes, crop
        # Before the network's kernels, or else the network would wait for its own pixels.
        self._stream = torch.cuda.Stream(device, priority=-1)
        self._apart = torch.cuda.Stream(device, priority=-1)

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
            found |= self._squares_of(prepared.files[run], memory)
        return found

    def _squares_of(self, files: Sequence[_File], memory: list[Tensor]) -> dict[int, list[Tensor] | ImageError]:
        """The squares of some. Those of one size and view are worked on together, and lie in `memory`."""
        alike: dict[Seen, list[int]] = defaultdict(list)
        for place, file in enumerate(files):
            alike[file.seen].append(place)
        # Zeros: of a damaged file the decoder may leave rows as they are.
        planes = {
            seen: torch.zeros(len(places), 3, seen.height, seen.width, dtype=torch.uint8, device=self._device)
            for seen, places in alike.items()
        }
        rows = {place: row for seen, places in alike.items() for place, row in zip(places, planes[seen], strict=True)}
        able = self._filled([file.encoded for file in files], [rows[place] for place in range(len(rows))])
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
                found[file.image] = of_image if able[place] else _by_cpu(file.encoded, self._sizes, self._crop)
        return found

    def _filled(self, encoded: Sequence[Tensor], pixels: Sequence[Tensor]) -> list[bool]:
        """Decodes each file into its pixels; whether that was possible."""
        decoder = nvjpeg.decoder_on(self._device, self._number)
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
