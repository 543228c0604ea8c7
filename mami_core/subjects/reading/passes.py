"""The passes of a survey: what is noted while a network sees a probe alone, again, and beside others."""

from collections.abc import Set
from typing import Any

import torch
from torch import Tensor, nn

from mami_core.subjects.reading.finder import CHANNELS_SECOND
from mami_core.subjects.reading.watch import Look, Passage, Place, note_beside, sketch

SATURATING = (nn.Hardtanh, nn.Hardsigmoid, nn.Sigmoid, nn.Tanh)
"""Operations with a highest value, which many images reach together (nn.ReLU6 is a Hardtanh)."""


class Alone:
    """The first pass, of one image: shapes, who saturates, and who is written over later."""

    def __init__(self, nonlinear: Set[str] = frozenset()) -> None:
        """`nonlinear` are the names of the activation modules."""
        self.passages: dict[Place, Passage] = {}
        self.begun: dict[tuple[str, int], int] = {}
        """How many passages there were before each call."""
        self.dtypes: set[torch.dtype] = set()
        self.clamps: dict[Place, Place] = {}
        self.activations: dict[Place, Place] = {}
        """Outputs that are what a saturating module gave, or an activation module, and that one's place."""
        self.overwritten: set[Place] = set()
        self.same: dict[Place, Place] = {}
        """Containers' outputs that are their last module's, and the latter."""
        self._nonlinear = nonlinear
        self._calls: dict[str, int] = {}
        self._passed_on: list[tuple[Tensor, int, Place]] = []

    def begin(self, name: str, call: int) -> None:
        """What hears of every call before anything passes in it."""
        self.begun[name, call] = len(self.passages)

    def look(self, place: Place, tensor: Tensor) -> None:
        """What every tensor that passes is shown to."""
        self.dtypes.add(tensor.dtype)
        self.passages[place] = Passage(tuple(tensor.shape), sketch(tensor))

    def pass_on(self, name: str, module: nn.Module, output: Any) -> Any:
        """A copy of a tensor to go on with, whose writes are counted; itself where it is (in) a copy already."""
        call = self._calls[name] = self._calls.get(name, -1) + 1
        if not isinstance(output, Tensor) or output.is_nested or output.layout != torch.strided:
            return output
        memory = output.untyped_storage().data_ptr()
        known = any(tensor.untyped_storage().data_ptr() == memory for tensor, _, _ in self._passed_on)
        passed = output if known else output.clone()
        place = Place(name, call, "output")
        found = ((each, writes) for tensor, writes, each in reversed(self._passed_on) if tensor is output)
        inner, writes = next(found, (None, 0))
        self.same |= {place: inner} if inner else {}
        unchanged = inner if output._version == writes else None
        self._note(self.clamps, place, unchanged, is_one=isinstance(module, SATURATING))
        self._note(self.activations, place, unchanged, is_one=name in self._nonlinear)
        self._passed_on.append((passed, passed._version, place))
        return passed

    def _note(self, known: dict[Place, Place], place: Place, inner: Place | None, *, is_one: bool) -> None:
        given = place if is_one else known.get(inner) if inner else None
        if given and self._calls[given.module] == given.call:  # what goes into a module is kept of its latest call
            known[place] = given

    def count_writes(self) -> None:
        """After the pass: which outputs were written to."""
        self.overwritten = {place for tensor, writes, place in self._passed_on if tensor._version > writes}
        self._passed_on.clear()


def note_again(passages: dict[Place, Passage]) -> Look:
    """The second pass, of the same image again."""

    def look(place: Place, tensor: Tensor) -> None:
        if place in passages:
            passages[place].again = sketch(tensor)

    return look


def note_black(passages: dict[Place, Passage]) -> Look:
    """The third, of a black image: its shapes."""

    def look(place: Place, tensor: Tensor) -> None:
        if place in passages:
            passages[place].black_shape = tuple(tensor.shape)

    return look


def beside_noted(passages: dict[Place, Passage], num_probes: int, modules: dict[str, nn.Module]) -> Look:
    """The last, of all probes at once."""

    def look(place: Place, tensor: Tensor) -> None:
        if place in passages:
            told = tensor.ndim != 3 and (place.side == "input" or isinstance(modules[place.module], CHANNELS_SECOND))
            note_beside(passages[place], tensor, num_probes, stripes=not told)

    return look
