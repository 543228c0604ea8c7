"""Latents, which a generator makes images from: reading them, and as batches beside the images made from them.

A generator's images are files like others (`contracts.GENERATED`): features, reports and scorers read them as they read
photographs. The generator itself reads the latents that lie beside them.
"""

import hashlib
import io
import re
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import PurePosixPath
from typing import NoReturn

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from safetensors.torch import load
from torch import Tensor

from mami_core.contracts import IMAGES
from mami_core.errors import ImageError, ImageSourceError
from mami_core.images.ahead import chunks
from mami_core.images.batch import HERE, Decoder, ImageBatch, batches
from mami_core.images.files import Files
from mami_core.images.read import read_bytes
from mami_core.sizes import Size

_DRAWN = re.compile(r"random:(\d{1,18}):(\d{1,10})")
_WANTED = "Expected a .npy, .safetensors or .pt file with one tensor of latents, or random:SEED:COUNT"
_NAMES = ("latents", "z", "w")
"""What a file of several tensors may call them."""


def read_latents(where: str, files: Files, shape: tuple[int, ...]) -> Float[Tensor, "n ..."]:
    """The latents of a file [n, *shape], or of "random:SEED:COUNT" as many drawn from the normal distribution.

    Nothing is unpickled but tensors.

    Raises:
        ImageSourceError: no such file, no latents in it, or latents of another shape.
    """
    found = _drawn(where, shape) if where.startswith("random:") else _of_file(where, files)
    if found.ndim < 2 or not len(found) or tuple(found.shape[1:]) != shape:
        raise ImageSourceError(f"{where}: expected latents {['n', *shape]}, got {list(found.shape)}.")
    if not bool(found.isfinite().all()):
        raise ImageSourceError(f"{where}: some latents hold something else than numbers.")
    return found.float()


def _drawn(where: str, shape: tuple[int, ...]) -> Tensor:
    numbers = _DRAWN.fullmatch(where)
    if numbers is None or not int(numbers[2]):
        raise ImageSourceError(f"{where}: expected random:SEED:COUNT, such as random:0:2000.")
    return torch.randn(int(numbers[2]), *shape, generator=torch.Generator().manual_seed(int(numbers[1])))


def _of_file(where: str, files: Files) -> Tensor:
    kind = PurePosixPath(where).suffix
    if kind not in (".npy", ".safetensors", ".pt", ".pth"):
        raise ImageSourceError(f"{where}: a generator makes images from latents. {_WANTED}.")
    try:
        data = files.read(where)
        if kind == ".npy":
            return torch.from_numpy(np.load(io.BytesIO(data), allow_pickle=False)).float()
        state = load(data) if kind == ".safetensors" else torch.load(io.BytesIO(data), "cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ImageSourceError(f"{where}: no such file. {_WANTED}.") from error
    except Exception as error:  # whatever is wrong with the bytes
        reason = " ".join(str(error).split())[:200]
        raise ImageSourceError(f"{where}: cannot be read as latents ({type(error).__name__}: {reason}).") from error
    tensors = {"": state} if isinstance(state, Tensor) else state if isinstance(state, dict) else {}
    chosen = [tensors[name] for name in _NAMES if name in tensors] or list(tensors.values())
    if not chosen or not isinstance(chosen[0], Tensor) or (len(tensors) > 1 and tensors.keys().isdisjoint(_NAMES)):
        held = ", ".join(sorted(map(str, tensors))) or "no tensor"
        raise ImageSourceError(f"{where}: holds {held}. {_WANTED}.")
    return chosen[0]


def fingerprint_of(latents: Float[Tensor, "n ..."]) -> str:
    """SHA-256 of shape and values."""
    shape = str(tuple(latents.shape)).encode()
    return hashlib.sha256(shape + latents.contiguous().numpy().tobytes()).hexdigest()


def images_of_latents(parts: Sequence[tuple[str, int]]) -> pa.Table:
    """The images that a generator makes, as `contracts.IMAGES`: files of `contracts.GENERATED`, each with its rows."""
    paths = [path for path, count in parts for _ in range(count)]
    rows = [row for _, count in parts for row in range(count)]
    numbers, nothing = range(len(rows)), pa.nulls(len(rows), pa.int64())
    keys = [f"latent {number}" for number in numbers]
    column = pa.repeat("image", len(rows))
    return pa.Table.from_arrays(
        [pa.array(numbers, pa.int64()), keys, paths, nothing, nothing, rows, column], schema=IMAGES
    )


def latent_batches(
    images: pa.Table,
    files: Files,
    shape: tuple[int, ...],
    *,
    sizes: Sequence[int | Size] = (),
    batch_size: int,
    decoder: Decoder = HERE,
    pinned: bool = False,
) -> Generator[ImageBatch, None, None]:
    """The latents of a generator's images, and after them the images in each of the `sizes`, in the table's order.

    Raises:
        ImageError: one of them is gone.
    """
    beside = images.set_column(
        IMAGES.get_field_index("column"), IMAGES.field("column"), pa.repeat("latent", len(images))
    )
    pictures = batches(
        images, files, sizes=sizes, crop=1.0, batch_size=batch_size, decoder=decoder, pinned=pinned, on_error=_gone
    )
    with closing(read_bytes(beside, files)) as answers, closing(pictures):
        for some in chunks(answers, batch_size):
            latents = torch.zeros(batch_size, *shape)
            numbers = torch.full((batch_size,), -1, dtype=torch.int64)
            for row, (number, data) in enumerate(some):
                if isinstance(data, ImageError):
                    _gone(number, "its latent", str(data))
                latents[row] = torch.frombuffer(bytearray(data), dtype=torch.float32).view(shape)
                numbers[row] = number
            made = next(pictures).pixels if sizes else ()
            yield ImageBatch((latents, *made), numbers, len(some))


def _gone(image: int, key: str, reason: str) -> NoReturn:
    raise ImageError(f"generated image {image} ({key}) cannot be read any more: {reason}. Start a new output folder.")
