"""JPEG files decoded, cut and resized on an NVIDIA GPU.

What the GPU's decoder cannot do (other formats, CMYK, damaged files) the CPU does, image by image: so an image's
pixels depend on the image alone. They differ from those that a CPU decodes: another decoder rounds otherwise, and
large photographs are not decoded at a part of their size.
"""

import io
from collections import defaultdict
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass

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
from mami_core.images.pixels import FORMATS, MAX_PIXELS, View, view_of
from mami_core.images.read import Answer, read_bytes
from mami_core.sizes import Size

_TO_RGB = 3  # torchvision.io.ImageReadMode.RGB
_TOGETHER = 128
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
            threads(1, name="decode") as pool,
        ):
            prepared = ahead(headers, work.prepare, chunks(answers, _TOGETHER), weight=len, limit=limit)
            for found, ready in ahead(pool, work.decode, prepared, weight=len, limit=limit):
                ready.wait()  # the network's stream waits, not the host
                for each in found:
                    if not isinstance(each[1], ImageError):
                        for square in each[1]:
                            square.record_stream(torch.cuda.current_stream(square.device))
                    yield each


Prepared = tuple[int, bytes | None, View | None, list[Tensor] | ImageError | None]
"""An image's number; its bytes and what is seen of it, where the GPU decodes it; otherwise its pixels or the error."""


class _Work:
    """What the pieces of one pass over images have in common."""

    def __init__(self, device: torch.device, sizes: tuple[int | Size, ...], crop: float) -> None:
        self._device, self._sizes, self._crop = device, sizes, crop
        self._stream = torch.cuda.Stream(device)

    def prepare(self, answers: list[Answer]) -> list[Prepared]:
        """Reads headers, and decodes what the GPU cannot."""
        return [self._prepared(image, data) for image, data in answers]

    def _prepared(self, image: int, data: bytes | ImageError) -> Prepared:
        if isinstance(data, bytes) and (view := gpu_view(data, self._crop)):
            return image, data, view, None
        return image, None, None, decoded(data, self._sizes, self._crop)

    def decode(self, prepared: list[Prepared]) -> tuple[list[Decoded], torch.cuda.Event]:
        """The squares of some images on the GPU, and the event after which they are there."""
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            squares = self._squares([(data, view) for _, data, view, _ in prepared if data and view])
            pixels = iter(squares)
            found: list[Decoded] = []
            for image, data, _, done in prepared:
                on_gpu = next(pixels) if data else done
                if on_gpu is None:  # the GPU's decoder gave it up
                    assert data is not None
                    on_gpu = decoded(data, self._sizes, self._crop)
                on_gpu = on_gpu if isinstance(on_gpu, ImageError) else [each.to(self._device) for each in on_gpu]
                found.append((image, on_gpu))
            ready = torch.cuda.Event()
            ready.record(self._stream)
            return found, ready

    def _squares(self, files: list[tuple[bytes, View]]) -> list[list[Tensor] | None]:
        """Each file's squares, one a size; None where the GPU's decoder fails."""
        every = _decoded([data for data, _ in files], self._device)
        by_side: dict[int, list[tuple[int, Tensor]]] = defaultdict(list)
        for number, (pixels, (_, view)) in enumerate(zip(every, files, strict=True)):
            if pixels is not None:
                by_side[view.side].append((number, view.of(pixels)))
        found: list[list[Tensor] | None] = [None] * len(files)
        for of_side in by_side.values():
            squares = torch.stack([square for _, square in of_side])
            resized = [resize(squares, Size.of(size)) for size in self._sizes]
            for (number, _), *of_sizes in zip(of_side, *resized, strict=True):
                found[number] = of_sizes
        return found


def gpu_view(data: bytes, crop: float) -> View | None:
    """What is seen of a JPEG that the GPU can decode; None for everything else, damaged headers included."""
    try:
        photo = Image.open(io.BytesIO(data), formats=FORMATS)
    except Exception:  # decoding on the CPU will say what is wrong
        return None
    suits = photo.format == "JPEG" and photo.mode in ("RGB", "L") and photo.width * photo.height <= MAX_PIXELS
    return view_of(photo, crop) if suits else None


def _decoded(files: list[bytes], device: torch.device) -> list[Tensor | None]:
    """The files' pixels; where not all can be decoded, those that can are found one by one."""
    if not files:
        return []
    encoded = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in files]
    try:
        jpeg_operators.load()
        return list(torch.ops.image.decode_jpegs_cuda(encoded, _TO_RGB, device))
    except RuntimeError:
        if len(files) == 1:
            return [None]
        return [pixels for data in files for pixels in _decoded([data], device)]


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
