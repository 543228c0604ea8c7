"""What a subject is given of images: their pixels as it wants them, or the latents that a generator made them from."""

from collections.abc import Callable, Generator, Sequence

import pyarrow as pa

from mami_core.errors import ImageError
from mami_core.images import HERE, Decoder, Files, ImageBatch, batches
from mami_core.images.latents import latent_batches
from mami_core.sizes import Size
from mami_core.subjects import Subject


def vanished(image: int, key: str, reason: str) -> None:
    """What to do (`on_error`) of an image that chose a unit's regions and cannot be had any more."""
    raise ImageError(f"image {image} ({key}) was readable when exemplars were searched, but now: {reason}")


def batches_for(
    subject: Subject,
    images: pa.Table,
    files: Files,
    *,
    beside: Sequence[int | Size] = (),
    batch_size: int,
    decoder: Decoder = HERE,
    pinned: bool = False,
    on_error: Callable[[int, str, str], None],
) -> Generator[ImageBatch, None, None]:
    """As `images.batches`: first what the subject takes, after it the same images in each of the sizes `beside`."""
    if subject.latent_shape:
        return latent_batches(
            images,
            files,
            subject.latent_shape,
            sizes=beside,
            batch_size=batch_size,
            decoder=decoder,
            pinned=pinned,
        )
    return batches(
        images,
        files,
        sizes=(subject.size, *beside),
        crop=subject.crop,
        batch_size=batch_size,
        decoder=decoder,
        pinned=pinned,
        on_error=on_error,
    )
