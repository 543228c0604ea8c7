"""What is read off a layer beside its own units: attention heads, latents of a dictionary, the other end of a unit.

A lens takes a layer's values [B, C, *positions] and gives those of its own units [B, U, *positions]. One with very many
units is asked for some at a time (`Seen`), so that memory is bounded by the block and not by the lens.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

BLOCK = 2**24
"""Numbers of a lens's units that are there at once: 64 MB in single precision."""


@runtime_checkable
class Lens(Protocol):
    """Units of its own, read off a layer's values."""

    @property
    def num_units(self) -> int:
        """How many."""
        ...

    def prepare(self, given: Float[Tensor, "b c *p"]) -> Float[Tensor, "b d *p"]:
        """What all blocks of units need, worked out once a batch."""
        ...

    def units(self, prepared: Float[Tensor, "b d *p"], some: slice) -> Float[Tensor, "b u *p"]:
        """A range of units."""
        ...

    def pairs(self, prepared: Float[Tensor, "n d *p"], units: Int64[Tensor, " n"]) -> Float[Tensor, " n *p"]:
        """One unit for each row."""
        ...


@dataclass(frozen=True, slots=True)
class Heads:
    """How far each attention head moves a position: the norm of what it gives there."""

    num_units: int

    def prepare(self, given: Float[Tensor, "b c *p"]) -> Float[Tensor, "b u *p"]:
        """The norms: there are few."""
        return given.float().unflatten(1, (self.num_units, -1)).norm(dim=2)

    def units(self, prepared: Tensor, some: slice) -> Tensor:
        """A range of heads."""
        return prepared[:, some]

    def pairs(self, prepared: Tensor, units: Tensor) -> Tensor:
        """One head for each row."""
        return prepared[torch.arange(len(units), device=units.device), units]


@dataclass(frozen=True, slots=True)
class Plain:
    """A layer's own units."""

    num_units: int

    def prepare(self, given: Tensor) -> Tensor:
        """The values as they are."""
        return given

    def units(self, prepared: Tensor, some: slice) -> Tensor:
        """A range of units."""
        return prepared[:, some]

    def pairs(self, prepared: Tensor, units: Tensor) -> Tensor:
        """One unit for each row."""
        return prepared[torch.arange(len(units), device=units.device), units]


@dataclass(frozen=True, slots=True)
class Part:
    """Some of a lens's units, numbered anew from 0."""

    of: Lens
    first: int
    num_units: int

    def prepare(self, given: Tensor) -> Tensor:
        """What the lens needs."""
        return self.of.prepare(given)

    def units(self, prepared: Tensor, some: slice) -> Tensor:
        """A range of units."""
        return self.of.units(prepared, slice(self.first + some.start, self.first + some.stop))

    def pairs(self, prepared: Tensor, units: Tensor) -> Tensor:
        """One unit for each row."""
        return self.of.pairs(prepared, units + self.first)


@dataclass(frozen=True, slots=True)
class Lowest:
    """The other end of each unit of a lens: its values with their sign turned."""

    of: Lens

    @property
    def num_units(self) -> int:
        """As many."""
        return self.of.num_units

    def prepare(self, given: Tensor) -> Tensor:
        """What the lens needs."""
        return self.of.prepare(given)

    def units(self, prepared: Tensor, some: slice) -> Tensor:
        """A range of units."""
        return -self.of.units(prepared, some)

    def pairs(self, prepared: Tensor, units: Tensor) -> Tensor:
        """One unit for each row."""
        return -self.of.pairs(prepared, units)


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """A layer's values through a lens: in shape and indexing like the tensor [B, U, *positions] that is never whole."""

    prepared: Tensor
    lens: Lens
    finite: Tensor
    """Whether all that the lens was given of an image was finite, [B]."""

    @staticmethod
    def through(lens: Lens, given: Tensor) -> "Tensor | Seen":
        """The whole tensor where it is small, else something that gives parts of it."""
        prepared = lens.prepare(given)
        if lens.num_units * prepared[:, 0].numel() <= BLOCK:
            return lens.units(prepared, slice(0, lens.num_units))
        return Seen(prepared, lens, given.flatten(1).isfinite().all(1))

    @property
    def shape(self) -> torch.Size:
        """Of the whole."""
        return torch.Size((len(self.prepared), self.lens.num_units, *self.prepared.shape[2:]))

    @property
    def ndim(self) -> int:
        """Its axes."""
        return self.prepared.ndim

    def __getitem__(self, places: tuple[Tensor, Tensor]) -> Tensor:
        """For rows and units, given one by one: the map of each, [n, *positions]."""
        rows, units = places
        return self.lens.pairs(self.prepared[rows], units)

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """All units, some at a time."""
        size = max(1, BLOCK // max(1, self.prepared[:, 0].numel()))
        for first in range(0, self.lens.num_units, size):
            some = slice(first, min(first + size, self.lens.num_units))
            yield some, self.lens.units(self.prepared, some)


def highest(seen: "Tensor | Seen") -> Float[Tensor, "b u"]:
    """The highest value of each unit on each image; NaN where any is."""
    if isinstance(seen, Seen):
        return torch.cat([highest(part) for _, part in seen.blocks()], dim=1)
    return seen.flatten(2).amax(2) if seen.ndim > 2 else seen
