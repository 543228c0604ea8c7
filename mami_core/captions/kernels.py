"""Two steps of decoding, each in one kernel of a GPU, where Triton is at hand; it comes with torch.

Written out in torch they are a dozen operations, each of which reads and writes numbers by the hundred megabytes.
"""

import functools
import logging
import os

import torch
from jaxtyping import Float
from torch import Tensor

logger = logging.getLogger(__name__)


def serve(tensor: Tensor) -> bool:
    """Whether the kernels work on this tensor: inference on a GPU, or Triton's interpreter (`TRITON_INTERPRET=1`)."""
    if tensor.requires_grad:
        return False
    return _build(tensor.device) if tensor.is_cuda else os.environ.get("TRITON_INTERPRET") == "1"


@functools.cache
def _build(device: torch.device) -> bool:
    """Whether kernels can be built here: that takes Triton, a GPU that it knows, and a C compiler."""
    try:
        energies(*(torch.ones(shape, device=device) for shape in ((1, 1, 16), (1, 1, 16), (16,))))
        update(torch.ones(1, 64, device=device), torch.ones(1, 16, device=device))
    except Exception as problem:  # whatever its toolchain raises
        logger.warning("Captions are decoded without GPU kernels of our own, and slower: %s", problem)
        return False
    return True


def energies(
    query_NBA: Float[Tensor, "n b a"], key_NKA: Float[Tensor, "n k a"], energy_A: Float[Tensor, " a"]
) -> Float[Tensor, "n b k"]:
    """Additive attention's energies up to a constant: Σ_a −2 v_a / (1 + e^2q · key), where the key is e^2k."""
    from mami_core.captions import triton_kernels

    return triton_kernels.energies(query_NBA, key_NKA, energy_A)


def update(
    gates: Float[Tensor, "rows gates"], cell: Float[Tensor, "rows hidden"]
) -> tuple[Float[Tensor, "rows hidden"], Float[Tensor, "rows hidden"]]:
    """`lstm.update`."""
    from mami_core.captions import triton_kernels

    return triton_kernels.update(gates, cell)
