"""The images table → batches of pixels, decoded ahead of their use."""

import functools
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import pyarrow as pa
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional

from mami_core.errors import ConfigError, ImageError
from mami_core.images.ahead import ahead, chunks, threads
from mami_core.images.files import Files
from mami_core.images.pixels import decode
from mami_core.images.read import Answer, read_bytes
from mami_core.sizes import Size

MOST_THREADS = 8
"""More do not decode more: on 16 cores one did 376 photographs a second, four 1,430, eight 1,527, sixteen 1,373."""

_MEBIBYTE = 1 << 20
_IMAGES_TOGETHER = 8  # Handing a task over takes a tenth of decoding a photograph, twice as much on a busy machine.

Decoded = tuple[int, list[Tensor] | ImageError]


@dataclass(frozen=True)
class ImageBatch:
    """Images of one fixed number of rows: valid ones first, then rows of zeros."""

    pixels: tuple[UInt8[Tensor, "batch 3 _ _"] | Float[Tensor, "batch ..."], ...]
    """One tensor a size, channels last in memory; before those of a generator's images, their latents."""
    images: Int64[Tensor, " batch"]
    """The images' numbers; -1 for the rows that are padding."""
    num_valid: int


@runtime_checkable
class Decoder(Protocol):
    """Reads and decodes images ahead of their use, somewhere."""

    def __call__(
        self, images: pa.Table, files: Files, *, sizes: Sequence[int | Size], crop: float, batch_size: int
    ) -> Generator[Decoded, None, None]:
        """Each image's number with its pixels, [3, h, w] a size, or with what is wrong with it; in the table's order.

        As far ahead as a taker of `batch_size` images at a time can use, and no further.
        """
        ...


@dataclass(frozen=True, slots=True)
class InThreads:
    """Decodes in this process, up to two batches ahead.

    A thread takes as much memory as the largest image it meets: 11 MB for a JPEG of 12 megapixels, 140 MB for such a
    PNG, 3 GB at `MAX_PIXELS`. The threads end with the iterator, also when it is closed early.
    """

    num_threads: int = 2

    def __post_init__(self) -> None:
        if self.num_threads < 1:
            raise ConfigError(f"expected at least 1 thread, got {self.num_threads}")

    def __call__(
        self, images: pa.Table, files: Files, *, sizes: Sequence[int | Size], crop: float, batch_size: int
    ) -> Generator[Decoded, None, None]:
        """As `Decoder` says."""
        limit = 2 * batch_size + 2 * self.num_threads * _IMAGES_TOGETHER
        with closing(read_bytes(images, files)) as answers, threads(self.num_threads, name="decode") as pool:
            yield from _decode_ahead(pool, answers, sizes, crop, limit=limit)


HERE = InThreads()
"""Two threads of this process."""


def batches(
    images: pa.Table,
    files: Files,
    *,
    sizes: Sequence[int | Size],
    crop: float,
    batch_size: int,
    decoder: Decoder = HERE,
    pinned: bool = False,
    on_error: Callable[[int, str, str], None],
) -> Generator[ImageBatch, None, None]:
    """The images of the table (`contracts.IMAGES`), in its order, `batch_size` at a time.

    An image that cannot be read or decoded takes no row; `on_error` is told its number, key and the reason, in the
    images' order and in the caller's thread. `decoder` works ahead; whichever CPU it does so on, the batches are the
    same. They lie where the decoder puts the pixels, on the CPU in memory that a GPU reads by itself if `pinned`.

    Raises:
        StorageError: storage failed.
    """
    if batch_size < 1:
        raise ConfigError(f"expected at least 1 image a batch, got {batch_size}")
    with closing(decoder(images, files, sizes=sizes, crop=crop, batch_size=batch_size)) as decoded:
        batch = _Filling(sizes, batch_size, pinned=pinned)
        for key, (image, squares) in zip(_keys(images), decoded, strict=True):
            if isinstance(squares, ImageError):
                on_error(image, key, str(squares))
                continue
            batch.add(image, squares)
            if batch.num_valid == batch_size:
                yield batch.finished()
                batch = _Filling(sizes, batch_size, pinned=pinned)
        if batch.num_valid:
            yield batch.finished()


def _keys(images: pa.Table) -> Iterator[str]:
    return (key for part in images.select(["key"]).to_batches(max_chunksize=1024) for key in part["key"].to_pylist())


def _decode_ahead(
    pool: ThreadPoolExecutor, answers: Iterable[Answer], sizes: Sequence[int | Size], crop: float, *, limit: int
) -> Iterator[Decoded]:
    """The answers decoded, in order: at most about `limit` images, or as many megabytes, ahead."""

    def decode_some(some: list[Answer]) -> list[Decoded]:
        return [(image, decoded(data, sizes, crop)) for image, data in some]

    for some in ahead(pool, decode_some, chunks(answers, _IMAGES_TOGETHER), weight=_weight, limit=limit):
        yield from some


def _weight(some: list[Answer]) -> int:
    """1 an image, and 1 more for every megabyte: large files do not pile up."""
    return sum(1 + (len(data) // _MEBIBYTE if isinstance(data, bytes) else 0) for _, data in some)


def decoded(data: bytes | ImageError, sizes: Sequence[int | Size], crop: float) -> list[Tensor] | ImageError:
    """What was read of an image, decoded, or what is wrong with it."""
    if isinstance(data, ImageError):
        return data
    try:
        return decode(data, sizes=sizes, crop=crop)
    except ImageError as problem:
        return problem


class _Filling:
    """A batch that is being put together."""

    def __init__(self, sizes: Sequence[int | Size], batch_size: int, *, pinned: bool) -> None:
        self.num_valid = 0
        self._images = torch.full((batch_size,), -1, dtype=torch.int64)
        self._shapes = [(batch_size, size.height, size.width, 3) for size in map(Size.of, sizes)]
        self._pinned = pinned
        self._pixels: list[Tensor] = []
        self._on_device: list[list[Tensor]] = []

    def add(self, image: int, squares: list[Tensor]) -> None:
        if squares[0].device.type == "cpu":
            if not self._pixels:
                zeros = functools.partial(torch.zeros, dtype=torch.uint8, pin_memory=self._pinned)
                self._pixels = [zeros(shape) for shape in self._shapes]
            for pixels, square in zip(self._pixels, squares, strict=True):
                # As NumPy arrays, because copying a picture into a tensor would start torch's own threads.
                pixels.numpy()[self.num_valid] = square.permute(1, 2, 0).numpy()
        else:
            self._on_device.append([square.permute(1, 2, 0) for square in squares])
        self._images[self.num_valid] = image
        self.num_valid += 1

    def finished(self) -> ImageBatch:
        found = self._pixels
        if self._on_device:
            empty = (0, 0, 0, 0, 0, 0, 0, len(self._images) - self.num_valid)
            found = [functional.pad(torch.stack(of_size), empty) for of_size in zip(*self._on_device, strict=True)]
        return ImageBatch(tuple(pixels.permute(0, 3, 1, 2) for pixels in found), self._images, self.num_valid)
