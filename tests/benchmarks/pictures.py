"""Synthetic images and regions: smooth, as photographs are, and all different."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor

from mami_core import contracts
from mami_core.images import Decoded, Files, ImageBatch
from mami_core.sizes import Size


@dataclass(frozen=True, eq=False)
class AtHand:
    """A `Decoder` of images that are in memory already, all black in other sizes than the first."""

    pixels: Tensor
    """By image number."""

    def __call__(
        self, images: pa.Table, files: Files, *, sizes: Sequence[int | Size], crop: float, batch_size: int
    ) -> Generator[Decoded, None, None]:
        """As `Decoder` says."""
        shapes = [(size.height, size.width, 3) for size in map(Size.of, sizes)]
        black = [torch.zeros(shape, dtype=torch.uint8).permute(2, 0, 1) for shape in shapes[1:]]
        for image in images["image"].to_pylist():
            yield image, [self.pixels[image], *black]


def pictures(count: int, size: int, *, seed: int = 0) -> Tensor:
    """uint8 [count, 3, size, size], channels last: blobs of colour with a little noise."""
    generator = torch.Generator().manual_seed(seed)
    blobs = F.interpolate(torch.rand(count, 3, 7, 7, generator=generator), size=(size, size), mode="bicubic")
    noise = torch.rand(count, 3, size, size, generator=generator) * 0.2
    return ((blobs + noise).clamp(0, 1) * 255).to(torch.uint8).contiguous(memory_format=torch.channels_last)


def batches_of(pixels: Tensor, batch_size: int) -> list[ImageBatch]:
    """Decoded images as the library's batches, numbered from 0."""
    numbers = torch.arange(len(pixels))
    parts = zip(pixels.split(batch_size), numbers.split(batch_size), strict=True)
    return [ImageBatch((some,), images, len(images)) for some, images in parts]


def images_table(count: int) -> pa.Table:
    """`contracts.IMAGES` of images that are nowhere."""
    rows = [
        {"image": number, "key": f"{number}.jpg", "path": "", "offset": None, "size": None, "row": None}
        for number in range(count)
    ]
    return contracts.from_rows(rows, contracts.IMAGES)


def regions_of(count: int, size: int, *, seed: int = 0) -> Tensor:
    """Masks [count, size, size]: one to a few blobs that cover some hundredths to a third of the grid."""
    generator = torch.Generator().manual_seed(seed)
    blobs = F.interpolate(torch.rand(count, 1, 7, 7, generator=generator), size=(size, size), mode="bilinear")[:, 0]
    covered = torch.linspace(0.02, 0.3, count)
    limits = torch.stack([each.quantile(1 - share) for each, share in zip(blobs.flatten(1), covered, strict=True)])
    return blobs > limits[:, None, None]


def cycled(count: int, parts: list[Tensor]) -> Iterator[Tensor]:
    """`count` of the parts, over and over."""
    return (parts[number % len(parts)] for number in range(count))
