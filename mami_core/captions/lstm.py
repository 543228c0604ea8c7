"""One LSTM step, shared by the captioner and the language model.

torch's own LSTM cells take one concatenated input. Ours keeps the gates' three sources apart (the last word, the
context, the hidden state), because teacher forcing projects all words at once and only the rest step by step.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mami_core import kernels


def sigmoid(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """σ(x), with bits that do not depend on where in the tensor a number stands.

    torch's own sigmoid has two formulas on a CPU: one for whole vector registers, one for the numbers left over at the
    end of every thread's share. They differ in the last bit, so that a row's result would depend on its neighbours.
    """
    if x.requires_grad or x.device.type != "cpu":
        # Where exp overflows, the gradient of the formula below is not a number.
        return x.sigmoid()
    return x.neg().exp_().add_(1).reciprocal_()


def update(
    sources: tuple[Float[Tensor, "rows gates"], ...], cell: Float[Tensor, "rows hidden"]
) -> tuple[Float[Tensor, "rows hidden"], Float[Tensor, "rows hidden"]]:
    """The next hidden state and cell (Hochreiter and Schmidhuber, 1997, with a forget gate).

    The gates are the sum of their sources, one to three: input, forget, candidate and output gates side by side, before
    their non-linearities. The first source may be written into.
    """
    if kernels.serve(cell) and not any(source.requires_grad for source in sources):
        return kernels.update(sources, cell)
    gates = sources[0]
    for source in sources[1:]:
        gates = gates.add_(source)
    enter, forget, candidate, leave = gates.chunk(4, dim=-1)
    cell = sigmoid(forget) * cell + sigmoid(enter) * candidate.tanh()
    return sigmoid(leave) * cell.tanh(), cell


def initialize(hidden: int, *sources: nn.Module) -> None:
    """Draw what makes the gates uniformly from ±1/√hidden, as torch's LSTMs do."""
    bound = 1 / math.sqrt(hidden)
    with torch.no_grad():
        for source in sources:
            for parameter in source.parameters():
                parameter.uniform_(-bound, bound)
