"""The GPU kernels themselves; `kernels` says when they serve, and what each gives.

Axes: N neurons, B beams, K exemplars, A attention size, D features; R rows, H hidden; images, positions, units.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_BEAMS, _SIZE = 8, 32
"""Beams and attention numbers that a program of `weights` has in hand."""
_FEATURES = 128
"""Features that a program of `averages` has in hand, of as many beams."""
_NUMBERS = 512
"""Numbers of the hidden state that a program of `update` has in hand."""
_POSITIONS, _UNITS = 64, 32
"""Positions and units that a program of `count` has in hand."""
_CELLS = 2048
"""Cells of a region that a program of `draw` has in hand."""
_TILE = 4096
"""Numbers that a program of `rectify` has in hand."""
_ALIGNED = 8
"""Numbers by which lines of `weigh` are aligned."""


def weights(query_NBA: Tensor, key_NKA: Tensor, present_NK: Tensor, energy_A: Tensor | None, scale: float) -> Tensor:
    (n, b, a), k = query_NBA.shape, key_NKA.shape[1]
    query_NBA = query_NBA if query_NBA.stride(2) == 1 else query_NBA.contiguous()
    found_NBK = query_NBA.new_empty(n, b, k)
    width, strides = max(2, triton.next_power_of_2(k)), query_NBA.stride()[:2]
    energy = query_NBA if energy_A is None else energy_A.contiguous()  # not read where there is none
    _weights[(n, triton.cdiv(b, _BEAMS))](
        query_NBA, key_NKA.contiguous(), present_NK.contiguous().view(torch.uint8), energy, found_NBK, *strides,
        b, k, a, scale, energy_A is not None, _BEAMS, width, _SIZE,
    )  # fmt: skip
    return found_NBK


def averages(weights_NBK: Tensor, features_NKD: Tensor) -> Tensor:
    (n, b, k), d = weights_NBK.shape, features_NKD.shape[2]
    found_NBD = weights_NBK.new_empty(n, b, d)
    grid = (n, triton.cdiv(b, _BEAMS), triton.cdiv(d, _FEATURES))
    _averages[grid](weights_NBK.contiguous(), features_NKD.contiguous(), found_NBD, b, k, d, _BEAMS, _FEATURES)
    return found_NBD


def update(sources: tuple[Tensor, ...], cell_RH: Tensor) -> tuple[Tensor, Tensor]:
    cell_RH = cell_RH.contiguous()
    hidden_RH, now_RH = torch.empty_like(cell_RH), torch.empty_like(cell_RH)
    rows, size = cell_RH.shape
    sources = tuple(each if each.stride(1) == 1 else each.contiguous() for each in sources)
    three = (*sources, *sources[-1:] * 2)[:3]  # those beyond the number of sources are not read
    _update[(rows, triton.cdiv(size, _NUMBERS))](
        *three, cell_RH, hidden_RH, now_RH, *(each.stride(0) for each in three), size, len(sources), _NUMBERS
    )
    return hidden_RH, now_RH


def count(counts_UN: Tensor, values_BPU: Tensor, valid: Tensor, to_step: int, dropped_bits: int) -> None:
    images, positions, units = values_BPU.shape
    grid = (triton.cdiv(positions, _POSITIONS), triton.cdiv(units, _UNITS), images)
    _count[grid](
        counts_UN, values_BPU, valid.view(torch.uint8), *values_BPU.stride(), positions, units, counts_UN.shape[1],
        to_step, dropped_bits, _POSITIONS, _UNITS,
    )  # fmt: skip


def draw(maps: Tensor, thresholds: Tensor, down: tuple, across: tuple, size: int) -> Tensor:
    pairs, height, width = maps.shape
    found = maps.new_empty(pairs, size, size, dtype=torch.bool)
    columns = triton.next_power_of_2(size)
    # Products and sums rounded one by one, as elsewhere.
    _draw[(pairs,)](
        maps.contiguous(), thresholds.contiguous(), *down, *across, found.view(torch.uint8), height, width, size,
        max(1, _CELLS // columns), columns, enable_fp_fusion=False,
    )  # fmt: skip
    return found


def weigh(
    regions: Tensor, places: Tensor, sides: Sequence[int], dtype: torch.dtype, most_halvings: int
) -> tuple[list[Tensor], Tensor]:
    size = regions.shape[-1]
    halvings = max((size // side).bit_length() - 1 for side in sides)
    # Lines begin where a product reads them at once.
    found = {
        step: regions.new_empty(len(places), triton.cdiv((size >> step) ** 2, _ALIGNED) * _ALIGNED, dtype=dtype)
        for step in range(halvings + 1)
        if size >> step in sides
    }
    any_of_them = next(iter(found.values()))
    levels = [found.get(step, any_of_them) for step in range(most_halvings + 1)]  # not written to where not wanted
    totals = regions.new_empty(len(places), dtype=torch.float32)
    _weigh[(len(places),)](
        regions.contiguous().view(torch.uint8), places, totals, *levels, *(level.stride(0) for level in levels),
        len(regions), size, triton.next_power_of_2(size), halvings, sum(1 << step for step in found),
    )  # fmt: skip
    return [found[(size // side).bit_length() - 1][:, : side * side] for side in sides], totals


def rectify(maps: Tensor, bias: Tensor, added: Tensor | None) -> Tensor:
    images, channels, height, width = maps.shape
    found = torch.empty_like(maps)
    columns = min(256, triton.next_power_of_2(channels))
    positions, at_once = images * height * width, _TILE // columns
    grid = (triton.cdiv(positions, at_once), triton.cdiv(channels, columns))
    other = maps if added is None else added  # not read where there is none
    _rectify[grid](
        maps, other, bias, found, positions, channels, added is not None, at_once, columns, num_warps=8
    )  # fmt: skip
    return found


def _kernel(function: Callable[..., None]) -> Any:
    """Triton reads a kernel's source, and with it what the function knows: not that of a type checker around it."""
    return triton.jit(inspect.unwrap(function))


@_kernel
def _weights(query, key, present, energy, found, stride_n, stride_b, b, k, a, scale, ADDITIVE: tl.constexpr,
             BEAMS: tl.constexpr, WIDTH: tl.constexpr, SIZE: tl.constexpr):  # fmt: skip
    n = tl.program_id(0).to(tl.int64)
    beam = tl.program_id(1) * BEAMS + tl.arange(0, BEAMS)
    exemplar = tl.arange(0, WIDTH)
    beams, exemplars = (beam < b)[:, None], (exemplar < k)[:, None]
    total = tl.zeros((BEAMS, WIDTH, SIZE), tl.float32)
    for first in range(0, a, SIZE):
        number = first + tl.arange(0, SIZE)
        inside = (number < a)[None, :]
        at = query + n * stride_n + beam[:, None] * stride_b + number[None, :]
        q = tl.load(at, mask=beams & inside, other=0.0)
        at = key + (n * k + exemplar[:, None]) * a + number[None, :]
        e = tl.load(at, mask=exemplars & inside, other=0.0)
        if ADDITIVE:
            # Beyond 20 a tanh is 1. Within, the product of the two exponentials stays within float32.
            q = tl.exp(tl.minimum(tl.maximum(2 * q, -40.0), 40.0))
            v = tl.load(energy + number, mask=number < a, other=0.0)
            total += (-2 * v)[None, None, :] / (1 + q[:, None, :] * e[None, :, :])
        else:
            total += q[:, None, :] * e[None, :, :]
    scores = tl.sum(total, 2) * scale
    there = tl.load(present + n * k + exemplar, mask=exemplar < k, other=0) != 0
    scores = tl.where(there[None, :], scores, -float("inf"))
    scores = tl.exp(scores - tl.max(scores, 1)[:, None])
    scores = scores / tl.sum(scores, 1)[:, None]
    at = found + (n * b + beam[:, None]) * k + exemplar[None, :]
    tl.store(at, scores, mask=beams & (exemplar < k)[None, :])


@_kernel
def _averages(weights, features, found, b, k, d, BEAMS: tl.constexpr, FEATURES: tl.constexpr):
    n = tl.program_id(0).to(tl.int64)
    beam = tl.program_id(1) * BEAMS + tl.arange(0, BEAMS)
    feature = tl.program_id(2) * FEATURES + tl.arange(0, FEATURES)
    total = tl.zeros((BEAMS, FEATURES), tl.float32)
    for exemplar in range(k):
        w = tl.load(weights + (n * b + beam) * k + exemplar, mask=beam < b, other=0.0)
        f = tl.load(features + (n * k + exemplar) * d + feature, mask=feature < d, other=0.0)
        total += w[:, None] * f[None, :]
    at = found + (n * b + beam[:, None]) * d + feature[None, :]
    tl.store(at, total, mask=(beam < b)[:, None] & (feature < d)[None, :])


@_kernel
def _gate(first, second, third, at_first, at_second, at_third, inside, NUM: tl.constexpr):
    total = tl.load(first + at_first, mask=inside, other=0.0)
    if NUM > 1:
        total += tl.load(second + at_second, mask=inside, other=0.0)
    if NUM > 2:
        total += tl.load(third + at_third, mask=inside, other=0.0)
    return total


@_kernel
def _update(first, second, third, cell, hidden, now, stride_1, stride_2, stride_3, size, NUM: tl.constexpr,
            NUMBERS: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    number = tl.program_id(1) * NUMBERS + tl.arange(0, NUMBERS)
    inside = number < size
    x, y, z = row * stride_1 + number, row * stride_2 + number, row * stride_3 + number
    enter = tl.sigmoid(_gate(first, second, third, x, y, z, inside, NUM))
    forget = tl.sigmoid(_gate(first, second, third, x + size, y + size, z + size, inside, NUM))
    candidate = _gate(first, second, third, x + 2 * size, y + 2 * size, z + 2 * size, inside, NUM)
    leave = tl.sigmoid(_gate(first, second, third, x + 3 * size, y + 3 * size, z + 3 * size, inside, NUM))
    c = forget * tl.load(cell + row * size + number, mask=inside, other=0.0)
    c += enter * (2 * tl.sigmoid(2 * candidate) - 1)
    tl.store(now + row * size + number, c, mask=inside)
    tl.store(hidden + row * size + number, leave * (2 * tl.sigmoid(2 * c) - 1), mask=inside)


@_kernel
def _count(counts, values, valid, stride_b, stride_p, stride_u, positions, units, bins, to_step, DROPPED: tl.constexpr,
           POSITIONS: tl.constexpr, UNITS: tl.constexpr):  # fmt: skip
    image = tl.program_id(2).to(tl.int64)
    if tl.load(valid + image) != 0:
        position = tl.program_id(0) * POSITIONS + tl.arange(0, POSITIONS)
        unit = tl.program_id(1) * UNITS + tl.arange(0, UNITS)
        inside = (position < positions)[:, None] & (unit < units)[None, :]
        at = (
            values
            + image * stride_b
            + position[:, None].to(tl.int64) * stride_p
            + unit[None, :].to(tl.int64) * stride_u
        )
        bits = tl.load(at, mask=inside, other=0.0).to(tl.float32).to(tl.int32, bitcast=True)
        magnitude = tl.maximum(bits, 0)
        found = tl.minimum(tl.maximum((magnitude + to_step) >> DROPPED, 1), bins - 1)
        found = tl.minimum(found, magnitude)
        one = tl.full((POSITIONS, UNITS), 1, counts.dtype.element_ty)
        tl.atomic_add(counts + unit[None, :] * bins + found, one, mask=inside & (found > 0), sem="relaxed")
        # The inactive ones would all wait for the same few numbers: a program adds them up first.
        inactive = tl.sum((inside & (found == 0)).to(counts.dtype.element_ty), 0)
        tl.atomic_add(counts + unit * bins, inactive, mask=(unit < units) & (inactive > 0), sem="relaxed")


@_kernel
def _weigh(regions, places, totals, level_0, level_1, level_2, level_3, level_4, line_0, line_1, line_2, line_3,
           line_4, num, size, COLUMNS: tl.constexpr, HALVINGS: tl.constexpr, WANTED: tl.constexpr):  # fmt: skip
    levels = (level_0, level_1, level_2, level_3, level_4)
    lines = (line_0, line_1, line_2, line_3, line_4)
    place = tl.program_id(0).to(tl.int64)
    region = tl.load(places + place)
    width = tl.where(region < num, size, 0)
    ROWS: tl.constexpr = 1 << HALVINGS
    column = tl.arange(0, COLUMNS)
    total = tl.zeros((COLUMNS,), tl.float32)
    for start in range(0, size, ROWS):
        row = start + tl.arange(0, ROWS)
        inside = (column < width)[None, :] & (row < size)[:, None]
        at = regions + region * size * size + row[:, None] * size + column[None, :]
        cells = tl.load(at, mask=inside, other=0).to(tl.float32)
        total += tl.sum(cells, 0)
        for step in tl.static_range(HALVINGS + 1):
            if step > 0:
                cells = _half(cells, ROWS >> step, COLUMNS >> step)
            if WANTED & (1 << step):
                line = levels[step] + place * lines[step]
                _put(line, cells, start // (1 << step), size // (1 << step), ROWS >> step, COLUMNS >> step)
    tl.store(totals + place, tl.sum(total, 0))


@_kernel
def _half(cells, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """2 × 2 cells become their sum, so many of them."""
    return tl.sum(tl.sum(tl.reshape(cells, (ROWS, 2, COLUMNS, 2)), 3), 1)


@_kernel
def _put(line, cells, start, size, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    row, column = start + tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    inside = (row < size)[:, None] & (column < size)[None, :]
    tl.store(line + row[:, None] * size + column[None, :], cells.to(line.dtype.element_ty), mask=inside)


@_kernel
def _rectify(maps, added, bias, found, positions, channels, ADDED: tl.constexpr, POSITIONS: tl.constexpr,
             CHANNELS: tl.constexpr):  # fmt: skip
    position = tl.program_id(0).to(tl.int64) * POSITIONS + tl.arange(0, POSITIONS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = (position < positions)[:, None] & (channel < channels)[None, :]
    at = position[:, None] * channels + channel[None, :]
    total = tl.load(maps + at, mask=inside, other=0.0).to(tl.float32)
    if ADDED:
        total += tl.load(added + at, mask=inside, other=0.0).to(tl.float32)
    total += tl.load(bias + channel, mask=channel < channels, other=0.0).to(tl.float32)[None, :]
    # Not `maximum`, which would make a number of what is none.
    tl.store(found + at, tl.where(total < 0, 0.0, total).to(found.dtype.element_ty), mask=inside)


@_kernel
def _cells(maps, first_column, second_column, share, row, width, first, second, along, inside):
    """Rows of the enlarged map: each between two rows of the map, each of these between two of its columns."""
    upper, lower = row + first[:, None] * width, row + second[:, None] * width
    a = tl.load(maps + upper + first_column[None, :], mask=inside, other=0.0)
    a += (tl.load(maps + upper + second_column[None, :], mask=inside, other=0.0) - a) * share[None, :]
    b = tl.load(maps + lower + first_column[None, :], mask=inside, other=0.0)
    b += (tl.load(maps + lower + second_column[None, :], mask=inside, other=0.0) - b) * share[None, :]
    return a + (b - a) * along[:, None]


@_kernel
def _draw(maps, thresholds, row_1, row_2, row_share, column_1, column_2, column_share, found, height, width, size,
          ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    pair = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, COLUMNS)
    first_column = tl.load(column_1 + column, mask=column < size, other=0)
    second_column = tl.load(column_2 + column, mask=column < size, other=0)
    share = tl.load(column_share + column, mask=column < size, other=0.0)
    peaks = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, size, ROWS):
        row = start + tl.arange(0, ROWS)
        inside = (row < size)[:, None] & (column < size)[None, :]
        first = tl.load(row_1 + row, mask=row < size, other=0)
        second = tl.load(row_2 + row, mask=row < size, other=0)
        along = tl.load(row_share + row, mask=row < size, other=0.0)
        cells = _cells(maps, first_column, second_column, share, pair * height * width, width, first, second, along,
                       inside)  # fmt: skip
        peaks = tl.maximum(peaks, tl.where(inside, cells, 0.0))
    peak = tl.max(tl.max(peaks, 1), 0)
    above = tl.maximum(tl.load(thresholds + pair), 0.0)
    for start in range(0, size, ROWS):
        row = start + tl.arange(0, ROWS)
        inside = (row < size)[:, None] & (column < size)[None, :]
        first = tl.load(row_1 + row, mask=row < size, other=0)
        second = tl.load(row_2 + row, mask=row < size, other=0)
        along = tl.load(row_share + row, mask=row < size, other=0.0)
        cells = _cells(maps, first_column, second_column, share, pair * height * width, width, first, second, along,
                       inside)  # fmt: skip
        drawn = (cells > above) | ((cells >= peak) & (cells > 0))
        tl.store(found + (pair * size + row[:, None]) * size + column[None, :], drawn.to(tl.uint8), mask=inside)
