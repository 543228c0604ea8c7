"""Convolutions that leave their bias, and what is added to it, to the ReLU behind them, on a GPU.

There a convolution adds its bias in a pass over memory of its own, which takes longer than the convolution itself; so
does the sum of a residual block. A ReLU adds both and clamps in one pass (`kernels.rectify`)::

    conv ──▶ bias ──▶ + ──▶ ReLU        conv ──▶ ReLU of (maps + added + bias)
                      ▲          →                ▲
    conv ──▶ bias ────┘                 conv ─────┘

Everything else that is done with such a convolution's output finds the bias in it.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_map_only

from mami_core import kernels
from mami_core.subjects.reading.heads import HEADS

Call = tuple[str, nn.Module, tuple, object]
"""One call of a module in a forward pass: its name, itself, what it got, what it gave."""

_SUMS = (Tensor.__iadd__, Tensor.add_)
_RELUS = (functional.relu, torch.relu, Tensor.relu)


class LeavingBias(nn.Conv2d):
    """Gives its output as a `Leaving`."""

    on_cpus_too = False
    was_of_use = False
    """Whether some ReLU has taken its bias, or the sum that it went into."""

    def forward(self, input: Tensor) -> Tensor:
        """The convolution; with its bias, where there is no kernel that adds it later."""
        if input.dtype == torch.float64 or not (self.on_cpus_too or kernels.serve(input)):
            return super().forward(input)
        return Leaving.of(self._conv_forward(input, self.weight, None), self)


class Leaving(Tensor):
    """A convolution's output, to which its bias, and perhaps other maps, are still to be added.

    Nothing is written into the maps, so that others may hold them too. Whatever is done with it, but for sums in place
    and ReLUs, is done with `whole`.
    """

    maps: Tensor
    bias: Tensor | None
    added: Tensor | None
    convs: list[LeavingBias]
    """Whose biases are in `bias`."""

    @classmethod
    def of(cls, maps: Tensor, conv: LeavingBias) -> "Leaving":
        """What a convolution gives."""
        found = maps.as_subclass(cls)
        found.maps, found.bias, found.added, found.convs = maps, cast(Tensor, conv.bias), None, [conv]
        return found

    def whole(self) -> Tensor:
        """With all that is to be added."""
        if self.bias is not None:
            found = self.maps + self.bias.to(self.maps.dtype)[:, None, None]
            self.become(found if self.added is None else found + self.added)
        return self.maps

    def become(self, maps: Tensor) -> None:
        """These maps, to which nothing is to be added."""
        self.maps, self.bias, self.added = maps, None, None

    def adds_later(self, other: Tensor) -> bool:
        """Adds other maps, later; whether that can be."""
        maps = other.maps if isinstance(other, Leaving) else other
        if (
            self.bias is None
            or self.added is not None
            or (maps.shape, maps.dtype) != (self.maps.shape, self.maps.dtype)
        ):
            return False
        if isinstance(other, Leaving) and other.bias is not None and other.added is None:
            self.bias, self.convs = self.bias.float() + other.bias.float(), [*self.convs, *other.convs]
            self.added = other.maps
        else:
            self.added = other.whole() if isinstance(other, Leaving) else other
        return True

    def rectified(self) -> Tensor:
        """max(0, maps + added + bias), in new memory."""
        if self.bias is None:
            return self.maps.relu()
        for conv in self.convs:
            conv.was_of_use = True
        return kernels.rectify(self.maps, self.bias, self.added)

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Called by torch for whatever is done with one."""
        named = dict(kwargs or {})
        with torch._C.DisableTorchFunctionSubclass():
            first = args[0] if args and isinstance(args[0], Leaving) else None
            if first is not None and func in _RELUS and named.keys() <= {"inplace"}:
                found = first.rectified()
                if named.get("inplace"):
                    first.become(found)
                return found
            if first is not None and func in _SUMS and len(args) == 2 and not named:
                other = args[1]
                if isinstance(other, Tensor) and first.adds_later(other):
                    return first
            args, named = tree_map_only(Leaving, Leaving.whole, (args, named))
            return func(*args, **named)


def unread_convs(calls: Sequence[Call], layers: Sequence[str]) -> Iterator[tuple[str, nn.Conv2d, object]]:
    """The convolutions that run once and whose output none of `layers` is: their names and outputs."""
    count = Counter(name for name, _, _, _ in calls)
    of_layers = {layer.partition("#")[0].removesuffix(HEADS) for layer in layers}
    read = [output for name, _, _, output in calls if name in of_layers]
    for name, module, _, output in calls:
        if isinstance(module, nn.Conv2d) and count[name] == 1 and not any(output is each for each in read):
            yield name, module, output


def leavable(calls: Sequence[Call], layers: Sequence[str]) -> list[nn.Conv2d]:
    """The convolutions that have a bias to leave, given a network's calls in one pass."""
    return [conv for _, conv, _ in unread_convs(calls, layers) if type(conv) is nn.Conv2d and conv.bias is not None]


def leave_biases(convs: Sequence[nn.Conv2d]) -> list[LeavingBias]:
    """Changes these convolutions in place.

    Whoever calls this runs the network once in `leaving_everywhere`, sees whether it still gives the same, and calls
    `keep_biases` on those that were of no use, or on all.
    """
    for conv in convs:
        conv.__class__ = LeavingBias
    return [cast(LeavingBias, conv) for conv in convs]


@contextmanager
def leaving_everywhere(convs: Sequence[LeavingBias]) -> Iterator[None]:
    """While inside, the biases are left on CPUs too."""
    for conv in convs:
        conv.on_cpus_too = True
    try:
        yield
    finally:
        for conv in convs:
            conv.on_cpus_too = False


def keep_biases(convs: Sequence[nn.Conv2d]) -> None:
    """The convolutions add their biases again."""
    for conv in convs:
        conv.__class__ = nn.Conv2d
