"""In which precision networks compute."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

Precision = Literal["float32", "tf32", "bfloat16"]
"""float32 is right to its last bits. tf32 is float32 whose products keep 10 bits after the point, several times as
fast on GPUs that have it, and float32 elsewhere. bfloat16 keeps 7 bits of everything, and takes half the memory."""


@contextmanager
def products(precision: Precision) -> Iterator[None]:
    """While inside, a GPU multiplies float32 numbers in this precision, whatever the process chose before."""
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # pyrefly: ignore
    before = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    try:
        yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.fp32_precision = value
