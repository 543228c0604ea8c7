"""The strongest images of every unit: a fold over images, whose result depends on no order and no split.

Value and image number are packed into one integer that sorts by value and, for equal values, by the lower image
number. The k largest integers are then the answer, and adding the same image twice changes nothing.

Axes: U units, B images of a batch, K exemplars kept.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float32, Int, Int64
from torch import Tensor

MAX_IMAGE = 2**32 - 1
"""The highest image number that can be packed."""

NO_IMAGE = -1
"""Stands where there is no image: in a batch's padding, and where a unit has fewer than k exemplars."""

_UNITS_AT_ONCE = 4096
_EMPTY = 0
"""The key of an absent exemplar: below that of every positive value."""


def pack(values: Float32[Tensor, "*shape"], images: Int64[Tensor, "*shape"]) -> Int64[Tensor, "*shape"]:
    """Integers in the order of the values, and of the falling image number where values are equal.

    Read as integers, positive floats are already in order and negative ones reversed, so the latter have their
    magnitude bits flipped. `images` are from 0 to `MAX_IMAGE`. Equal means equal bits: -0.0 comes before 0.0.
    """
    return (_reversed_below_zero(values.view(torch.int32)).long() << 32) | (MAX_IMAGE - images)


def unpack(keys: Int64[Tensor, "*shape"]) -> tuple[Float32[Tensor, "*shape"], Int64[Tensor, "*shape"]]:
    """What `pack` was given: values and image numbers, to the bit."""
    values = _reversed_below_zero((keys >> 32).int()).view(torch.float32)
    return values, MAX_IMAGE - (keys & 0xFFFFFFFF)


def _reversed_below_zero(bits: Tensor) -> Tensor:
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)  # its own inverse


@dataclass(slots=True, eq=False)
class TopK:
    """The k strongest images of every unit so far. `update` and `merge` change it in place and give it back."""

    keys: Int64[Tensor, "units k"]
    """Value and image packed, strongest first; absent exemplars last."""

    @staticmethod
    def empty(num_units: int, k: int, device: torch.device | str = "cpu") -> "TopK":
        """No image seen yet."""
        return TopK(torch.full((num_units, k), _EMPTY, dtype=torch.int64, device=device))

    def update(self, values: Float[Tensor, "batch units"], images: Int64[Tensor, " batch"]) -> "TopK":
        """Let a batch of images compete. Values that are not above zero, and images `NO_IMAGE`, do not take part."""
        for keys_UK, values_BU in zip(_blocks(self.keys), _blocks(values, dim=1), strict=True):
            _compete(keys_UK, values_BU.float().T.contiguous(), images)
        return self

    def merge(self, other: "TopK") -> "TopK":
        """Add what another fold saw. The same image in both counts once, so merging twice is harmless."""
        for keys_UK, more_UK in zip(_blocks(self.keys), _blocks(other.keys), strict=True):
            keys_UK.copy_(_strongest(keys_UK, more_UK))
        return self

    def present(self) -> Bool[Tensor, "units k"]:
        """Where there is an exemplar: the first `num_exemplars` places of each unit."""
        return self.keys != _EMPTY

    def activations(self) -> Float32[Tensor, "units k"]:
        """The exemplars' values, strongest first; 0 where there is none."""
        return unpack(self.keys)[0]

    def images(self) -> Int64[Tensor, "units k"]:
        """The exemplars' image numbers, strongest first; `NO_IMAGE` where there is none."""
        return torch.where(self.present(), unpack(self.keys)[1], NO_IMAGE)

    def num_exemplars(self) -> Int[Tensor, " units"]:
        """How many exemplars each unit has: k, or all the images on which it is active if they are fewer."""
        return self.present().sum(1)


def _blocks(tensor: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """Views of some units at a time: on a CPU, what is made of them stays in its cache."""
    return tensor.split(tensor.shape[dim] if tensor.is_cuda else _UNITS_AT_ONCE, dim)


def _compete(keys_UK: Tensor, values_UB: Tensor, images: Tensor) -> None:
    takes_part = (values_UB > 0) & (images != NO_IMAGE)
    keys_UB = torch.where(takes_part, pack(values_UB, images.clamp(min=0).expand_as(values_UB)), _EMPTY)
    if keys_UB.is_cuda:  # choosing rows would make the host wait
        keys_UK.copy_(_strongest(keys_UK, keys_UB))
        return
    better = (keys_UB > keys_UK[:, -1:]).any(1)  # soon true of a few units only
    keys_UK[better] = _strongest(keys_UK[better], keys_UB[better])


def _strongest(keys_UK: Tensor, more_UN: Tensor) -> Tensor:
    """The K largest of both, each key once."""
    k = keys_UK.shape[1]
    all_keys = torch.cat([keys_UK, more_UN], dim=1)
    if not all_keys.is_cuda:
        largest = all_keys.topk(k, dim=1).values
        if not _repeats(largest).any():  # nearly always: an image is seen once
            return largest
    ordered = all_keys.sort(dim=1, descending=True).values
    ordered[:, 1:].masked_fill_(_repeats(ordered), _EMPTY)
    return ordered.topk(k, dim=1).values


def _repeats(ordered: Tensor) -> Tensor:
    return (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != _EMPTY)
