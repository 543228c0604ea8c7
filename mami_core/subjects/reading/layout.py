"""Where the images, units and positions of a tensor are, found from what it showed for the probes.

Nothing is guessed from a shape alone. A map's grid, and the order of tokens, show in how they respond to stripes of the
image; tokens that no image changes, where a sequence first appears, are special (class, register, distillation tokens).
"""

import math
from collections.abc import Sequence as Several
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from mami_core.subjects.reading.probes import STRIPES, contrast
from mami_core.subjects.reading.watch import Passage, places_along

CHANNELS_SECOND = (
    nn.Conv2d,
    nn.ConvTranspose2d,
    nn.BatchNorm2d,
    nn.InstanceNorm2d,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.Upsample,
    nn.Dropout2d,
)
"""Modules whose 4-dimensional outputs are maps [B, C, H, W] by their definition."""

_CLEAR, _FINE, _FAINT = 0.15, 0.05, 0.02
"""Contrasts of stripes that show an order by themselves, that finer ones must have, and that decide between two."""


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

    def __call__(self, given: Tensor) -> Float[Tensor, "b u h w"] | Float[Tensor, "b u"]:
        """The tensor as [B, U, H, W] or [B, U]; a view of it wherever possible.

        Raises:
            ValueError: it has another shape than it had for the probes.
        """
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
    first, last = sequence.patches[0], sequence.patches[-1]
    if last - first + 1 == len(sequence.patches):
        return read[:, :, first : last + 1]
    return read[:, :, list(sequence.patches)]


@dataclass(slots=True)
class Finder:
    """Finds layouts, place after place in the order of a forward pass: what came before tells of what comes after."""

    aspect: float
    """Height of the input divided by its width."""
    sequences: dict[int, Sequence]
    """By their length."""
    grids: set[tuple[int, int]]
    """Of the maps so far."""
    rows: dict[tuple[int, ...], int]
    """Which axis holds the tokens, by the shape of tensors both of whose axes might, where it showed clearly."""

    def find(self, passage: Passage, module: nn.Module | None) -> Layout | str:
        """The layout of what passed a place, or the reason why it has none. `module` is what gave it, if any did."""
        batch = passage.batch_axis
        if batch is None:
            return _no_batch(passage)
        axes = [axis for axis in range(len(passage.shape)) if axis != batch]
        lengths = tuple(passage.shape[axis] for axis in axes)
        wide = [axis for axis in axes if passage.shape[axis] > 1]
        found: Layout | str
        if len(axes) == 3 and (isinstance(module, CHANNELS_SECOND) or len(wide) != 2 or self._is_grid(passage, wide)):
            found = self._map(passage, batch, axes, module)
        elif len(wide) <= 1:
            found = Layout(batch, wide[0] if wide else axes[0]) if axes else _no_units(passage)
        elif len(wide) == 2:
            found = self._tokens(passage, batch, wide, module)
        else:
            found = f"its output {passage.shape} is neither a map [B, C, H, W], tokens [B, T, C] nor a vector [B, C]"
        return found if isinstance(found, str) else _with_lengths(found, lengths)

    def _is_grid(self, passage: Passage, wide: Several[int]) -> bool:
        return tuple(passage.shape[axis] for axis in wide) in self.grids

    # Maps

    def _map(self, passage: Passage, batch: int, axes: Several[int], module: nn.Module | None) -> Layout | str:
        a, b, c = axes
        second, last = Layout(batch, a, (b, c)), Layout(batch, c, (a, b))
        if isinstance(module, CHANNELS_SECOND):
            return self._keep(second, passage)
        if passage.shape[b] == passage.shape[c] == 1:
            return second
        if passage.shape[a] == passage.shape[b] == 1:
            return last
        scores = {layout: self._score(layout, passage) for layout in (second, last) if self._has_shape(layout, passage)}
        if not scores:
            return f"its output {passage.shape} is no map: no two of its axes have the image's shape"
        best = max(scores, key=lambda layout: scores[layout])
        others = [score for layout, score in scores.items() if layout is not best]
        if scores[best] >= _CLEAR and all(scores[best] - score >= _FAINT for score in others):
            return self._keep(best, passage)
        holds_tokens = any(passage.shape[axis] in self.sequences for axis in axes)
        known = [layout for layout in scores if _grid(layout, passage) in self.grids]
        if len(known) == 1 and not holds_tokens:
            return known[0]
        if holds_tokens:
            return f"its output {passage.shape} holds tokens by heads or by tokens: no map of units"
        return f"its output {passage.shape} is no map: no two of its axes lie along the image"

    def _has_shape(self, layout: Layout, passage: Passage) -> bool:
        """Whether a map would be about as high and wide as the image; the smallest are rounded to anything."""
        height, width = _grid(layout, passage)
        return min(height, width) <= 2 or abs(math.log(height / width / self.aspect)) < math.log(2)

    def _keep(self, layout: Layout, passage: Passage) -> Layout:
        self.grids.add(_grid(layout, passage))
        return layout

    def _score(self, layout: Layout, passage: Passage) -> float:
        """How clearly both axes of positions follow the halves of the image."""
        found = [
            _contrasts(passage, axis, places_along(passage.shape[axis], 3), passage.shape[axis], side)[0]
            for side, axis in enumerate(layout.positions)
            if passage.shape[axis] > 1
        ]
        return min(found, default=0.0)

    # Tokens

    def _tokens(self, passage: Passage, batch: int, wide: Several[int], module: nn.Module | None) -> Layout | str:
        known = [axis for axis in wide if passage.shape[axis] in self.sequences]
        if not known:
            for axis in wide:
                self._meet(passage, axis)
            known = [axis for axis in wide if passage.shape[axis] in self.sequences]
        if not known:
            return (
                f"neither axis of its output {passage.shape} is a row of tokens, special ones left out, "
                "that is a map in the order of the image's rows"
            )
        axis = known[0]
        if len(known) > 1:
            scores = {each: self._order(passage, each) for each in known}
            axis = max(known, key=lambda each: scores[each])
            square = passage.shape[wide[0]] == passage.shape[wide[1]]
            if scores[axis] - min(scores.values()) >= _FINE:
                self.rows[passage.shape] = axis
            elif not square and passage.shape in self.rows:
                axis = self.rows[passage.shape]  # a tensor of that shape before told clearly
            elif isinstance(module, nn.Linear | nn.LayerNorm):
                axis = wide[0]  # their last axis is the units' by definition
            else:
                return f"its output {passage.shape} is tokens by tokens, or not to be told from it"
        (units,) = (each for each in wide if each != axis)
        return Layout(batch, units, (axis,), self.sequences[passage.shape[axis]])

    def _order(self, passage: Passage, axis: int) -> float:
        """How clearly an axis follows the image as tokens."""
        sequence = self.sequences[passage.shape[axis]]
        return _order_score(passage, axis, sequence.patches, sequence.grid)[0]

    def _meet(self, passage: Passage, axis: int) -> None:
        """Look at an axis of a length that was not seen before."""
        found = self._look_for_sequence(passage, axis)
        if found is not None:
            self.sequences[found.length] = found

    def _look_for_sequence(self, passage: Passage, axis: int) -> Sequence | None:
        if axis not in passage.responses:
            return None
        response = passage.responses[axis]  # [probes, T]
        moved = (response > 1e-6 * response.max()).any(0)
        length = passage.shape[axis]
        candidates = [tuple(moved.nonzero().flatten().tolist())]
        # Deeper in, where attention has changed every token, a sequence has as many special ones as the first had.
        for known in self.sequences.values():
            count = known.num_special
            in_front = known.patches[0] == count
            if 0 < count < length - 1:
                candidates.append(tuple(range(count, length)) if in_front else tuple(range(length - count)))
        best: tuple[float, Sequence] | None = None
        for patches in candidates:
            for grid in _grids(len(patches), self.aspect):
                coarse, fine = _order_score(passage, axis, patches, grid)
                if coarse >= _CLEAR and fine >= _FINE and (best is None or coarse > best[0]):
                    best = coarse, Sequence(length, patches, grid)
        return best[1] if best else None


def _order_score(passage: Passage, axis: int, patches: tuple[int, ...], grid: tuple[int, int]) -> tuple[float, float]:
    """The lowest contrast of the halves, and of finer stripes, when patches lie in the order of the grid's rows."""
    if axis not in passage.responses:
        return 0.0, 0.0
    index = torch.arange(len(patches))
    places = (index // grid[1], index % grid[1])
    halves, finer = [], []
    for side in (0, 1):
        if grid[side] > 1:
            half, *rest = _contrasts(passage, axis, places[side], grid[side], side, patches)
            halves.append(half)
            finer += rest
    return min(halves, default=0.0), min(finer, default=1.0)


def _contrasts(
    passage: Passage,
    axis: int,
    places: Int64[Tensor, " p"],
    length: int,
    side: int,
    patches: tuple[int, ...] | None = None,
) -> list[float]:
    """The contrast of each kind of stripes along one side of the image that is no finer than the cells there."""
    if axis not in passage.responses:
        return [0.0]
    whole, striped = passage.responses[axis][0], passage.responses[axis][1:]
    striped = striped / whole.clamp(min=1e-6 * float(whole.max()) + 1e-30)  # some units respond more than others anyway
    striped = striped if patches is None else striped[:, list(patches)]
    return [
        contrast(response, stripes.cover(length)[places])
        for stripes, response in zip(STRIPES, striped, strict=True)
        if stripes.axis == side and (stripes.parts <= length or stripes.parts == 2)
    ]


def _grids(count: int, aspect: float) -> list[tuple[int, int]]:
    """Heights and widths of `count` cells, of about the input's shape."""
    pairs = [(h, count // h) for h in range(1, count + 1) if count % h == 0]
    return [(h, w) for h, w in pairs if count > 1 and abs(math.log(h / w / aspect)) < math.log(2)]


def _grid(layout: Layout, passage: Passage) -> tuple[int, int]:
    first, second = layout.positions
    return passage.shape[first], passage.shape[second]


def _with_lengths(layout: Layout, lengths: tuple[int, ...]) -> Layout:
    return Layout(layout.batch, layout.units, layout.positions, layout.sequence, lengths)


def _no_batch(passage: Passage) -> str:
    one, many = passage.shape, passage.batch_shape
    if len(one) == len(many) and one != many:
        return f"its output {one} holds several rows for each image, such as windows or heads"
    return f"its output {one} has no row of numbers for each image"


def _no_units(passage: Passage) -> str:
    return f"its output {passage.shape} is one number an image, without an axis of units"
