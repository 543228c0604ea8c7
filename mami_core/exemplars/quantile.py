"""Thresholds: per-unit quantiles over all positions of all images, from a histogram that any split adds up to.

A bin is found from the bits of the float alone, without a logarithm: its exponent and the first three bits of its
mantissa, eight bins an octave. So the result is exact, the same everywhere, and cheaper than the convolution before it.

Axes: U units, B images, P positions of an activation map.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float32, Float64, Int, Int64
from torch import Tensor

from mami_core import kernels

NUM_BINS = 256
"""Bin 0 counts inactive positions (not above 0). Bin 1 starts above 0, the last one is open towards infinity."""

LOWEST, HIGHEST = 2.0**-16, 1.625 * 2.0**15
"""Where the bins of full resolution begin and end: 31.6 octaves. Everything above 0 and below counts in bin 1."""

_DROPPED_BITS = 20  # of a float32's 23 mantissa bits; three stay
_LOWEST_STEP = (127 - 16) << 3  # LOWEST, in steps of an eighth of an octave from 2^-127
_TO_STEP = (1 << _DROPPED_BITS) - 1 - ((_LOWEST_STEP - 1) << _DROPPED_BITS)
_BLOCK = 2**18  # values at a time on a CPU: what is made of them stays in its cache
_BLOCK_ON_GPU = 2**26  # a bound on memory; fewer blocks start fewer kernels
_UNITS_AT_ONCE = 1024  # on a CPU, likewise
_MAX_COUNT = 2**31 - 1


def bin_edges() -> Float64[Tensor, " edges"]:
    """Bin b ≥ 1 counts the values above edge b - 1, up to and including edge b. The last edge is infinity."""
    steps = torch.arange(_LOWEST_STEP, _LOWEST_STEP + NUM_BINS - 2, dtype=torch.int32)
    inner = (steps << _DROPPED_BITS).view(torch.float32).double()
    return torch.cat([inner.new_zeros(1), inner, inner.new_full((1,), torch.inf)])


def bin_of(bits: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """The bin of every float32, given as its bits. Not for NaN."""
    magnitude = bits.clamp(min=0)  # negative numbers, and -0.0, have the sign bit and become 0
    bins = magnitude.add(_TO_STEP).bitwise_right_shift_(_DROPPED_BITS).clamp_(1, NUM_BINS - 1)
    return torch.minimum(bins, magnitude, out=bins)  # 0 stays 0, nothing else is below 1


@dataclass(slots=True, eq=False)
class Histogram:
    """How often each unit's activation fell into each bin. `update` and `merge` change it in place and give it back."""

    counts: Int[Tensor, "units bins"]
    """int32 while that holds `positions_seen`, then int64."""
    positions_seen: int = 0
    """How many positions a unit was shown at most, padding included: no count is higher."""

    @staticmethod
    def empty(num_units: int, device: torch.device | str = "cpu") -> "Histogram":
        """Nothing counted yet."""
        return Histogram(torch.zeros(num_units, NUM_BINS, dtype=torch.int32, device=device))

    def update(
        self, maps: Float[Tensor, "batch units *grid"], valid: Bool[Tensor, " batch"] | None = None
    ) -> "Histogram":
        """Count every position of a batch of maps ([B, C, H, W]) or vectors ([B, C]), of its `valid` images only."""
        valid = maps.new_ones(len(maps), dtype=torch.bool) if valid is None else valid
        if kernels.serve(maps):
            values_BPU = maps.unsqueeze(-1).movedim(1, -1).flatten(1, -2)
            self._make_room(values_BPU.shape[0] * values_BPU.shape[1])
            kernels.count(self.counts, values_BPU, valid, to_step=_TO_STEP, dropped_bits=_DROPPED_BITS)
            return self
        bits_BPU = _positions_first(maps).view(torch.int32)
        batch, positions, units = bits_BPU.shape
        self._make_room(batch * positions)
        at_once = _BLOCK_ON_GPU if bits_BPU.is_cuda else _BLOCK
        block = max(1, at_once // (positions * units))
        whole = not bits_BPU.is_cuda and bool(valid.all())
        for block_BPU, valid_B in zip(bits_BPU.split(block), valid.split(block), strict=True):
            # Images left out become zeros, and ...
            self._count(bin_of(block_BPU if whole else block_BPU * valid_B[:, None, None]))
        self.counts[:, 0] -= (~valid).sum() * positions  # ... are taken off again: no copy, and no waiting on a GPU
        return self

    def _count(self, bins_BPU: Int[Tensor, "batch positions units"]) -> None:
        flat = self.counts.view(-1)
        first_bin_U = torch.arange(0, len(flat), NUM_BINS, dtype=torch.int32, device=flat.device)
        place = bins_BPU.add_(first_bin_U).view(-1)
        flat.index_add_(0, place, flat.new_ones(()).expand(place.shape))  # integers: exact in any order

    def saw(self, num_positions: int) -> None:
        """So many positions were counted in parts of the units (`LayerState.update_some`)."""
        self._make_room(num_positions)

    def _make_room(self, num_positions: int) -> None:
        self.positions_seen += num_positions
        if self.positions_seen > _MAX_COUNT:
            with torch.inference_mode(False):  # else nothing outside that mode may add to them again
                self.counts = self.counts.to(torch.int64)

    def merge(self, other: "Histogram") -> "Histogram":
        """Add what another fold counted."""
        self._make_room(other.positions_seen)
        self.counts += other.counts
        return self

    def total(self) -> Int64[Tensor, " units"]:
        """How many positions were counted."""
        return self.counts.sum(1)

    def active_fraction(self) -> Float64[Tensor, " units"]:
        """The share of positions above zero; 0 where nothing was counted."""
        total = self.total()
        return (total - self.counts[:, 0]).double() / total.clamp(min=1)

    def quantile(self, q: float) -> Float32[Tensor, " units"]:
        """The value that a share `q` of the positions does not exceed.

        It lies in the same bin as the exact quantile, so between `LOWEST` and `HIGHEST` it is at most an eighth off,
        and usually far less; beyond `HIGHEST` it is `HIGHEST`. It is 0 where the quantile is an inactive position.
        """
        return torch.cat([_quantile(counts_UN, q) for counts_UN in self.counts.split(_UNITS_AT_ONCE)])


def _quantile(counts_UN: Tensor, q: float) -> Float32[Tensor, " units"]:
    running_UN = counts_UN.cumsum(1, dtype=torch.float64)  # exact up to 2^53
    target_U1 = running_UN[:, -1:] * q
    bins_U1 = torch.searchsorted(running_UN, target_U1).clamp_(max=NUM_BINS - 1)
    count_U1 = counts_UN.gather(1, bins_U1)
    share_U1 = (target_U1 - (running_UN.gather(1, bins_U1) - count_U1)) / count_U1.clamp(min=1)
    edges = bin_edges().to(counts_UN.device)
    lower_U1 = edges[(bins_U1 - 1).clamp(min=0)]
    width_U1 = torch.where(bins_U1 < NUM_BINS - 1, edges[bins_U1] - lower_U1, 0)
    return (lower_U1 + width_U1 * _place(share_U1, counts_UN, bins_U1, edges)).float().squeeze(1)


def _place(share_U1: Tensor, counts_UN: Tensor, bins_U1: Tensor, edges: Tensor) -> Tensor:
    """How far into its bin a share of the bin's count reaches, from 0 to 1.

    In a tail the density falls steeply, inside a bin too: a straight line would be 2 to 7 % of the tail's mass off.
    So the density changes across the bin by the ratio that its neighbours show: of the curves x / (x + r (1 - x)) the
    one whose slopes at the ends have that ratio; a straight line where a neighbour is empty or open. Sums, quotients
    and square roots alone, which every machine rounds alike.
    """
    widths = edges.diff(prepend=edges.new_full((1,), -torch.inf))  # bin 0 and the last are open: density 0
    before_U1, after_U1 = (bins_U1 - 1).clamp(min=0), (bins_U1 + 1).clamp(max=NUM_BINS - 1)
    density_before = counts_UN.gather(1, before_U1) / widths[before_U1]
    density_after = counts_UN.gather(1, after_U1) / widths[after_U1]
    known = (density_before > 0) & (density_after > 0)
    across_two = torch.where(known, density_after / density_before, 1)  # from one neighbour's middle to the other's
    slope = across_two.sqrt().sqrt()
    return slope * share_U1 / (1 - share_U1 + slope * share_U1)


def _positions_first(maps: Float[Tensor, "batch units *grid"]) -> Float32[Tensor, "batch positions units"]:
    """The maps with the unit as the last axis: a view of channels-last memory, a copy of any other."""
    return maps.float().unsqueeze(-1).movedim(1, -1).flatten(1, -2).contiguous()
