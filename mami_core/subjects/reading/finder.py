"""Where the images, units and positions of a tensor are, found from what it showed for the probes.

Nothing is guessed from a shape alone. A map's grid, and the order of tokens, show in how they respond to stripes of the
image; tokens that no image changes, where a sequence first appears, are special (class, register, distillation tokens).
"""

import math
from collections.abc import Sequence as Several
from dataclasses import dataclass, field, replace

from torch import nn

from mami_core.subjects.reading.contrasts import (
    CLEAR,
    FAINT,
    FINE,
    contrasts,
    could_be_clearer,
    grids,
    order_score,
)
from mami_core.subjects.reading.layout import Layout, Sequence
from mami_core.subjects.reading.orders import in_rows
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
    shape: tuple[int, ...]
    """Of the input."""
    windows: dict[tuple[int, int], Sequence] = field(default_factory=dict)
    """Of tokens in windows, by number of windows and of tokens in each: the order met last."""
    unclear: bool = False
    """Whether tokens were met whose order only finer stripes can tell."""
    reordered: bool = False
    """Whether finer stripes told an order."""

    def find(self, passage: Passage, module: nn.Module | None) -> Layout | str:
        """The layout of what passed a place, or the reason why it has none. `module` is what gave it, if any did."""
        if passage.fold:
            rows, tokens, units = passage.shape
            folded = replace(passage, shape=(1, rows * tokens, units), fold=0)
            found = self._folded(folded, (rows, tokens))
            return replace(found, fold=rows) if isinstance(found, Layout) else found
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
        return found if isinstance(found, str) else replace(found, lengths=lengths)

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
        if scores[best] >= CLEAR and all(scores[best] - score >= FAINT for score in others):
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
            contrasts(passage, axis, places_along(passage.shape[axis], 3), passage.shape[axis], side)[0]
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
            self.unclear = True
            return (
                f"neither axis of its output {passage.shape} is a row of tokens, special ones left out, "
                "that is a map in the order of the image's rows"
            )
        axis = known[0]
        if len(known) > 1:
            scores = {each: self._order(passage, each) for each in known}
            axis = max(known, key=lambda each: scores[each])
            square = passage.shape[wide[0]] == passage.shape[wide[1]]
            if scores[axis] - min(scores.values()) >= FINE:
                self.rows[passage.shape] = axis
            elif not square and passage.shape in self.rows:
                axis = self.rows[passage.shape]  # a tensor of that shape before told clearly
            elif isinstance(module, nn.Linear | nn.LayerNorm):
                axis = wide[0]  # their last axis is the units' by definition
            else:
                return f"its output {passage.shape} is tokens by tokens, or not to be told from it"
        (units,) = (each for each in wide if each != axis)
        self._check_order(passage, axis)
        return Layout(batch, units, (axis,), self.sequences[passage.shape[axis]])

    def _check_order(self, passage: Passage, axis: int) -> None:
        """Tokens may come in another order from here on."""
        known = self.sequences[passage.shape[axis]]
        coarse, fine = order_score(passage, axis, known.patches, known.grid)
        if axis not in passage.responses or (coarse >= CLEAR and fine >= FINE):
            return
        if axis in passage.answers:
            patches = self._in_rows(passage, axis, tuple(sorted(known.patches)), known.grid)
            if patches is not None:
                self.sequences[known.length] = replace(known, patches=patches)
        elif could_be_clearer(passage.responses[axis], min(coarse, fine)):
            self.unclear = True

    def _folded(self, passage: Passage, rows: tuple[int, int]) -> Layout | str:
        """Tokens of windows: where each is the finer stripes tell, or did of the same windows just before."""
        length = passage.shape[1]
        for grid in grids(length, self.aspect) if 1 in passage.answers else ():
            patches = self._in_rows(passage, 1, tuple(range(length)), grid)
            if patches is not None:
                self.windows[rows] = Sequence(length, patches, grid)
                break
        if rows in self.windows:
            return Layout(0, 2, (1,), self.windows[rows], passage.shape[1:])
        self.unclear = True
        return f"its output {(*rows, *passage.shape[2:])} holds several rows for each image, such as windows or heads"

    def _in_rows(
        self, passage: Passage, axis: int, patches: tuple[int, ...], grid: tuple[int, int]
    ) -> tuple[int, ...] | None:
        found = in_rows(passage.answers[axis], patches, grid, self.shape)
        self.reordered |= found is not None
        return found

    def _order(self, passage: Passage, axis: int) -> float:
        """How clearly an axis follows the image as tokens."""
        sequence = self.sequences[passage.shape[axis]]
        return order_score(passage, axis, sequence.patches, sequence.grid)[0]

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
            for grid in grids(len(patches), self.aspect):
                coarse, fine = order_score(passage, axis, patches, grid)
                if coarse >= CLEAR and fine >= FINE and (best is None or coarse > best[0]):
                    best = coarse, Sequence(length, patches, grid)
        if best is None and axis in passage.answers:
            for patches in candidates:
                for grid in grids(len(patches), self.aspect):
                    ordered = self._in_rows(passage, axis, patches, grid)
                    if ordered is not None:
                        return Sequence(length, ordered, grid)
        return best[1] if best else None


def _grid(layout: Layout, passage: Passage) -> tuple[int, int]:
    first, second = layout.positions
    return passage.shape[first], passage.shape[second]


def _no_batch(passage: Passage) -> str:
    one, many = passage.shape, passage.batch_shape
    if len(one) == len(many) and one != many:
        return f"its output {one} holds several rows for each image, such as windows or heads"
    return f"its output {one} has no row of numbers for each image"


def _no_units(passage: Passage) -> str:
    return f"its output {passage.shape} is one number an image, without an axis of units"
