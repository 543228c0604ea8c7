"""How a tensor is read as units: where in it the images, units and positions are."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Sequence:
    """A row of tokens: which of them are patches, in the order of the rows of a grid."""

    length: int
    patches: tuple[int, ...]
    grid: tuple[int, int]

    @property
    def num_special(self) -> int:
        """Tokens that are no place in the image."""
        return self.length - len(self.patches)


@dataclass(frozen=True, slots=True)
class Layout:
    """How a tensor is read as units: call it."""

    batch: int
    """The axis of the images."""
    units: int
    positions: tuple[int, ...] = ()
    """Two axes of a map, one of tokens, none of a vector."""
    sequence: Sequence | None = None
    """Of tokens."""
    lengths: tuple[int, ...] = ()
    """Of every axis but the batch's, in order: another input has others, and must be looked at anew."""
    fold: int = 0
    """Rows along the batch's axis that one image has, such as windows, whose tokens come one after the other."""

    def __call__(self, given: Tensor) -> Float[Tensor, "b u h w"] | Float[Tensor, "b u"]:
        """The tensor as [B, U, H, W] or [B, U]; a view of it wherever possible.

        Raises:
            ValueError: it has another shape than it had for the probes.
        """
        if self.fold:
            given = given.unflatten(0, (-1, self.fold)).flatten(1, 2)
        lengths = tuple(length for axis, length in enumerate(given.shape) if axis != self.batch)
        if lengths != self.lengths:
            raise ValueError(f"it gives {tuple(given.shape)}, where the first image gave {self.lengths} an image")
        axes = (self.batch, self.units, *self.positions)
        read = given.permute(*axes, *(axis for axis in range(given.ndim) if axis not in axes))
        read = read.flatten(len(axes) - 1) if given.ndim > len(axes) else read  # what is left has length 1
        if self.sequence is None:
            return read
        return _patches_of(read, self.sequence).unflatten(2, self.sequence.grid)

    @property
    def kind(self) -> str:
        """In a word: "map", "tokens" or "vector"."""
        return "tokens" if self.sequence else "map" if self.positions else "vector"


def _patches_of(read: Float[Tensor, "b u t"], sequence: Sequence) -> Float[Tensor, "b u p"]:
    first, count = sequence.patches[0], len(sequence.patches)
    if sequence.patches == tuple(range(first, first + count)):
        return read[:, :, first : first + count]
    return read[:, :, list(sequence.patches)]
