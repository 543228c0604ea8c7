"""Convolutions that leave their bias to the ReLU behind them, on a GPU.

There a convolution adds its bias in a pass over memory of its own, which takes longer than the convolution itself.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from mami_core import kernels
from mami_core.subjects.reading.heads import HEADS

Call = tuple[str, nn.Module, tuple, object]
"""One call of a module in a forward pass: its name, itself, what it got, what it gave."""

_LEFT = "_bias_left"


class LeavingBias(nn.Conv2d):
    """Gives its output without the bias, which goes with it to an `AddingBias`."""

    on_cpus_too = False

    def forward(self, input: Tensor) -> Tensor:
        """The convolution; with its bias, where there is no kernel that adds it later."""
        if not (self.on_cpus_too or kernels.serve(input)):
            return super().forward(input)
        output = self._conv_forward(input, self.weight, None)
        setattr(output, _LEFT, self.bias)
        return output


class AddingBias(nn.ReLU):
    """Adds the bias that came with its input, and clamps, in one pass over memory."""

    def forward(self, input: Tensor) -> Tensor:
        """max(0, input + bias)."""
        bias = getattr(input, _LEFT, None)
        if bias is None:
            return super().forward(input)
        delattr(input, _LEFT)
        return kernels.rectify(input, bias)


def unread_convs(calls: Sequence[Call], layers: Sequence[str]) -> Iterator[tuple[str, nn.Conv2d, object]]:
    """The convolutions that run once and whose output none of `layers` is: their names and outputs."""
    count = Counter(name for name, _, _, _ in calls)
    of_layers = {layer.partition("#")[0].removesuffix(HEADS) for layer in layers}
    read = [output for name, _, _, output in calls if name in of_layers]
    for name, module, _, output in calls:
        if isinstance(module, nn.Conv2d) and count[name] == 1 and not any(output is each for each in read):
            yield name, module, output


def leave_biases(calls: Sequence[Call], layers: Sequence[str]) -> list[LeavingBias]:
    """Changes convolutions and ReLUs of a network in place, given its calls in one pass; the convolutions.

    It is those whose very output reaches a ReLU. Something may have been added to it meanwhile: sums know no order.
    Whoever calls this must look whether the network still gives the same in `leaving_everywhere`: the output may also
    have gone elsewhere, where the bias would be missed.
    """
    relus = [(module, arguments[0]) for _, module, arguments, _ in calls if type(module) is nn.ReLU and arguments]
    changed: list[LeavingBias] = []
    for _, conv, output in unread_convs(calls, layers):
        if type(conv) is not nn.Conv2d or conv.bias is None:
            continue
        behind = [relu for relu, given in relus if given is output]
        for relu in behind:
            relu.__class__ = AddingBias
        if behind:
            conv.__class__ = LeavingBias
            changed.append(conv)  # pyrefly: ignore
    return changed


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


def keep_biases(convs: Sequence[LeavingBias]) -> None:
    """The convolutions add their biases again."""
    for conv in convs:
        conv.__class__ = nn.Conv2d  # pyrefly: ignore
