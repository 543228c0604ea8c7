"""Steps that are each one kernel of a GPU, where Triton is at hand; it comes with torch.

Written out in torch they are a dozen operations, each of which reads and writes numbers by the hundred megabytes; and
how torch multiplies matrices depends on how many there are, where a kernel's row depends on nothing but the row.
"""

import functools
import logging
import os
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

logger = logging.getLogger(__name__)

Taps = tuple[Int[Tensor, " size"], Int[Tensor, " size"], Float[Tensor, " size"]]
"""The two cells of a line that each position of a finer line lies between, and the share of the second."""


_MOST_HALVINGS = 4
"""Between a region's grid and the coarsest level, in `weigh`: bfloat16 counts no further than 256 cells."""


def serve(tensor: Tensor) -> bool:
    """Whether the kernels work on this tensor: inference on a GPU, or Triton's interpreter (`TRITON_INTERPRET=1`)."""
    if tensor.requires_grad:
        return False
    return _build(tensor.device) if tensor.is_cuda else os.environ.get("TRITON_INTERPRET") == "1"


@functools.cache
def _build(device: torch.device) -> bool:
    """Whether kernels can be built here: that takes Triton, a GPU that it knows, and a C compiler."""
    try:
        update((torch.ones(1, 64, device=device),), torch.ones(1, 16, device=device))
    except Exception as problem:  # whatever its toolchain raises
        logger.warning("This GPU works without kernels of our own, and slower: %s", problem)
        return False
    return True


def weights(
    query_NBA: Float[Tensor, "n b a"],
    key_NKA: Float[Tensor, "n k a"],
    present_NK: Bool[Tensor, "n k"],
    *,
    energy_A: Float[Tensor, " a"] | None = None,
    scale: float = 1.0,
) -> Float[Tensor, "n b k"]:
    """An attention's weights: softmax over the keys present of the products of queries and keys times `scale`.

    With `energy_A`, of additive attention's energies v, Σ_a −2 v_a / (1 + e^2q · key), where the key is e^2k.
    """
    from mami_core import triton_kernels

    return triton_kernels.weights(query_NBA, key_NKA, present_NK, energy_A, scale)


def averages(weights_NBK: Float[Tensor, "n b k"], features_NKD: Float[Tensor, "n k d"]) -> Float[Tensor, "n b d"]:
    """`torch.bmm`, for few k."""
    from mami_core import triton_kernels

    return triton_kernels.averages(weights_NBK, features_NKD)


def update(
    sources: tuple[Float[Tensor, "rows gates"], ...], cell: Float[Tensor, "rows hidden"]
) -> tuple[Float[Tensor, "rows hidden"], Float[Tensor, "rows hidden"]]:
    """`lstm.update`."""
    from mami_core import triton_kernels

    return triton_kernels.update(sources, cell)


def count(
    counts: Int[Tensor, "units bins"],
    values_BPU: Float[Tensor, "batch positions units"],
    valid: Bool[Tensor, " batch"],
    *,
    to_step: int,
    dropped_bits: int,
) -> None:
    """Counts the valid images' values by unit and bin, as `exemplars.quantile.bin_of` finds it."""
    from mami_core import triton_kernels

    triton_kernels.count(counts, values_BPU, valid, to_step, dropped_bits)


def draw(
    maps: Float[Tensor, "pairs height width"],
    thresholds: Float[Tensor, " pairs"],
    down: Taps,
    across: Taps,
    *,
    size: int,
) -> Bool[Tensor, "pairs {size} {size}"]:
    """`exemplars.region.regions` of maps that are nowhere below zero."""
    from mami_core import triton_kernels

    return triton_kernels.draw(maps, thresholds, down, across, size)


def can_weigh(regions: Tensor, sides: Sequence[int]) -> bool:
    """Whether `weigh` serves: masks whose grid, halved again and again, comes to all of these sides."""
    side, steps = regions.shape[-1], range(_MOST_HALVINGS + 1)
    return regions.dtype == torch.bool and set(sides) <= {side >> step for step in steps if side % (1 << step) == 0}


def weigh(
    regions: Bool[Tensor, "regions grid grid"], places: Int[Tensor, " places"], sides: Sequence[int], dtype: torch.dtype
) -> tuple[list[Float[Tensor, "places _"]], Float[Tensor, " places"]]:
    """How many cells of the region in each place lie in each position of grids of these sides, and in all.

    A place with a number beyond the regions is empty. `can_weigh` says whether the sides suit.
    """
    from mami_core import triton_kernels

    return triton_kernels.weigh(regions, places, sides, dtype, _MOST_HALVINGS)


def rectify(
    maps: Float[Tensor, "batch channels height width"],
    bias: Float[Tensor, " channels"],
    added: Float[Tensor, "batch channels height width"] | None = None,
) -> Float[Tensor, "batch channels height width"]:
    """max(0, maps + added + bias), in new memory; the kernel adds up in float32 and rounds once."""
    given = [maps] if added is None else [maps, added]
    if serve(maps) and all(each.is_contiguous(memory_format=torch.channels_last) for each in given):
        from mami_core import triton_kernels

        return triton_kernels.rectify(maps, bias, added)
    return sum(given[1:], maps + bias.to(maps.dtype)[:, None, None]).relu()
