"""A decoder that tells how far an item is: what an image stage works on passes through it."""

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass

import pyarrow as pa

from jobs.engine.within import tell
from mami_core.images import Decoder
from mami_core.images.batch import Decoded
from mami_core.images.files import Files
from mami_core.sizes import Size


@dataclass(frozen=True, slots=True)
class Telling:
    """A decoder that tells how many images were taken from it."""

    decoder: Decoder
    num_images: int | None = None
    """How many the item has; by default those that are asked for, all at once."""

    def __call__(
        self, images: pa.Table, files: Files, *, sizes: Sequence[int | Size], crop: float, batch_size: int
    ) -> Generator[Decoded, None, None]:
        """As `mami_core.images.batch.Decoder` says."""
        total = self.num_images or images.num_rows
        decoded = self.decoder(images, files, sizes=sizes, crop=crop, batch_size=batch_size)
        with closing(decoded):
            for each in decoded:
                yield each
                tell("images", 1, of=total)
