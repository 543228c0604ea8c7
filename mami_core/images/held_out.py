"""Which images are held out: they choose no exemplars, and judge the captions instead."""

import hashlib
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float64

MOST = 10_000
"""So many held-out images are enough: the standard error of a correlation is then a hundredth."""


def places(keys: Iterable[str]) -> Float64[np.ndarray, " images"]:
    """A number from 0 to 1 for each image, by a hash of its name: the same in any list and any order.

    Images whose number is below a share are held out. A lower share holds out some of the same images.
    """
    digests = b"".join(hashlib.blake2b(key.encode(), digest_size=8).digest() for key in keys)
    return np.frombuffer(digests, "<u8") / 2.0**64


def share_of(num_images: int, *, wanted: float) -> float:
    """The share to hold out of so many images: the wanted one, or what gives about `MOST`."""
    return min(wanted, MOST / max(num_images, 1))
