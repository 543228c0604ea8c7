"""The GPU kernels themselves; `kernels` says when they serve. A row's bits depend on nothing but the row.

Axes: N neurons, B beams, K exemplars, A attention size; R rows, H hidden.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_BEAMS, _SIZE = 8, 32
"""Beams and attention numbers that a program of `energies` has in hand."""
_NUMBERS = 512
"""Numbers of the hidden state that a program of `update` has in hand."""


def energies(query_NBA: Tensor, key_NKA: Tensor, energy_A: Tensor) -> Tensor:
    """See `kernels.energies`."""
    (n, b, a), k = query_NBA.shape, key_NKA.shape[1]
    query_NBA = query_NBA if query_NBA.stride(2) == 1 else query_NBA.contiguous()
    key_NKA, found_NBK = key_NKA.contiguous(), query_NBA.new_empty(n, b, k)
    width, strides = max(2, triton.next_power_of_2(k)), query_NBA.stride()[:2]
    _energies[(n, triton.cdiv(b, _BEAMS))](
        query_NBA, key_NKA, energy_A.contiguous(), found_NBK, *strides, b, k, a, _BEAMS, width, _SIZE
    )
    return found_NBK


def update(gates_RG: Tensor, cell_RH: Tensor) -> tuple[Tensor, Tensor]:
    """See `lstm.update`."""
    gates_RG = gates_RG if gates_RG.stride(1) == 1 else gates_RG.contiguous()
    cell_RH = cell_RH.contiguous()
    hidden_RH, now_RH = torch.empty_like(cell_RH), torch.empty_like(cell_RH)
    rows, size = cell_RH.shape
    _update[(rows, triton.cdiv(size, _NUMBERS))](
        gates_RG, cell_RH, hidden_RH, now_RH, gates_RG.stride(0), size, _NUMBERS
    )
    return hidden_RH, now_RH


@triton.jit
def _energies(query, key, energy, found, stride_n, stride_b, b, k, a, BEAMS: tl.constexpr, WIDTH: tl.constexpr,
              SIZE: tl.constexpr):  # fmt: skip
    n = tl.program_id(0).to(tl.int64)
    beam = tl.program_id(1) * BEAMS + tl.arange(0, BEAMS)
    exemplar = tl.arange(0, WIDTH)
    beams, exemplars = (beam < b)[:, None], (exemplar < k)[:, None]
    total = tl.zeros((BEAMS, WIDTH, SIZE), tl.float32)
    for first in range(0, a, SIZE):
        number = first + tl.arange(0, SIZE)
        inside = (number < a)[None, :]
        at = query + n * stride_n + beam[:, None] * stride_b + number[None, :]
        q = 2 * tl.load(at, mask=beams & inside, other=0.0)
        # Beyond 20 a tanh is 1. Within, the product of the two exponentials stays within float32.
        q = tl.exp(tl.minimum(tl.maximum(q, -40.0), 40.0))
        at = key + (n * k + exemplar[:, None]) * a + number[None, :]
        e = tl.load(at, mask=exemplars & inside, other=0.0)
        v = tl.load(energy + number, mask=number < a, other=0.0)
        total += (-2 * v)[None, None, :] / (1 + q[:, None, :] * e[None, :, :])
    at = found + (n * b + beam[:, None]) * k + exemplar[None, :]
    tl.store(at, tl.sum(total, 2), mask=beams & (exemplar < k)[None, :])


@triton.jit
def _update(gates, cell, hidden, now, stride, size, NUMBERS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    number = tl.program_id(1) * NUMBERS + tl.arange(0, NUMBERS)
    inside = number < size
    gate = gates + row * stride + number
    enter = tl.sigmoid(tl.load(gate, mask=inside, other=0.0))
    forget = tl.sigmoid(tl.load(gate + size, mask=inside, other=0.0))
    candidate = 2 * tl.sigmoid(2 * tl.load(gate + 2 * size, mask=inside, other=0.0)) - 1
    leave = tl.sigmoid(tl.load(gate + 3 * size, mask=inside, other=0.0))
    c = forget * tl.load(cell + row * size + number, mask=inside, other=0.0) + enter * candidate
    tl.store(now + row * size + number, c, mask=inside)
    tl.store(hidden + row * size + number, leave * (2 * tl.sigmoid(2 * c) - 1), mask=inside)
