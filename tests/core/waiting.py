"""What may not make the host wait for an accelerator."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def waiting_is_an_error() -> Iterator[None]:
    """Whatever waits for CUDA inside raises, as far as torch sees it."""
    with warnings.catch_warnings(action="ignore"):  # it says that it does not see everything
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
