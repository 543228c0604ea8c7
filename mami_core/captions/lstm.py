"""One LSTM step, shared by the captioner and the language model.

torch's own LSTM cells take one concatenated input. Ours keeps the gates' three sources apart (the last word, the
context, the hidden state), because teacher forcing projects all words at once and only the rest step by step.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


def update(
    gates: Float[Tensor, "rows gates"], cell: Float[Tensor, "rows hidden"]
) -> tuple[Float[Tensor, "rows hidden"], Float[Tensor, "rows hidden"]]:
    """The next hidden state and cell (Hochreiter and Schmidhuber, 1997, with a forget gate).

    `gates` holds input, forget, candidate and output gates side by side, before their non-linearities.
    """
    enter, forget, candidate, leave = gates.chunk(4, dim=-1)
    cell = forget.sigmoid() * cell + enter.sigmoid() * candidate.tanh()
    return leave.sigmoid() * cell.tanh(), cell


def initialize(hidden: int, *sources: nn.Module) -> None:
    """Draw what makes the gates uniformly from ±1/√hidden, as torch's LSTMs do."""
    bound = 1 / math.sqrt(hidden)
    with torch.no_grad():
        for source in sources:
            for parameter in source.parameters():
                parameter.uniform_(-bound, bound)
