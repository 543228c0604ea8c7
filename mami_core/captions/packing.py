"""A network's matrix products, laid out for decoding: the same results, faster.

Decoding multiplies the same few matrices with many rows. On x86 processors oneDNN does this up to twice as fast as the
BLAS behind `torch.nn.functional.linear`, and gives a row the same bits whatever rows stand beside it. bfloat16 halves
the time again where the processor has it, at the price of about three digits.

An accelerator rather does few large products: what a word adds to an LSTM's gates is read from a table, and the layers
that see the same rows are one product. Products have a fixed number of rows there, because it decides how they are
computed: so a row has the same bits in a batch of any size.
"""

import copy
import platform
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from mami_core.captions.attention import Additive, SelfAttention
from mami_core.captions.captioner import Captioner
from mami_core.captions.language_model import LanguageModel
from mami_core.subjects import Precision

Network = TypeVar("Network", Captioner, LanguageModel)

_ROWS = 512
"""The rows a product is laid out for on a CPU; others work as well."""

ROWS_TOGETHER = 3200
"""The rows of every product on an accelerator: 64 neurons' beams of 50."""

_BIAS_COLUMNS = 8
"""What is added to a bfloat16 product's inner side for its bias: a multiple of 8 keeps it fast."""


class PackedLinear(nn.Module):
    """An `nn.Linear` for inference only: float32 in and out, the product in the given precision."""

    def __init__(self, linear: nn.Linear, precision: Precision) -> None:
        super().__init__()
        self.dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        self.weight = linear.weight.detach().to(self.dtype)
        self.bias = None if linear.bias is None else linear.bias.detach().to(self.dtype)
        self.onednn = self.dtype == torch.float32 and _has_onednn(self.weight)
        if self.onednn:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight.contiguous(), _ROWS)

    def forward(self, rows: Float[Tensor, "*rows inputs"]) -> Float[Tensor, "*rows outputs"]:
        """The products, a bias added."""
        if self.onednn:
            return torch.ops.mkldnn._linear_pointwise(rows, self.weight, self.bias, "none", [], "")
        return nn.functional.linear(rows.to(self.dtype), self.weight, self.bias).float()


class BlockedLinear(nn.Module):
    """An `nn.Linear` for inference on an accelerator: float32 in and out, always `ROWS_TOGETHER` rows to a product."""

    def __init__(self, linears: Sequence[nn.Linear], precision: Precision) -> None:
        """One product for linear layers that see the same rows; their results side by side."""
        super().__init__()
        weight = torch.cat([each.weight.detach() for each in linears])
        biases = [weight.new_zeros(len(each.weight)) if each.bias is None else each.bias.detach() for each in linears]
        self.bias = torch.cat(biases)
        self.with_bias = any(each.bias is not None for each in linears)
        self.rounded = precision == "bfloat16"
        if self.rounded:
            # The bias as two more inputs that are 1: its highest bits, and the next.
            high = self.bias.bfloat16()
            columns = torch.stack([high, (self.bias - high.float()).bfloat16()], 1)
            columns = nn.functional.pad(columns, (0, _BIAS_COLUMNS - 2))
            weight = torch.cat([weight.bfloat16(), columns], 1)
        self.weight = weight.T.contiguous()

    def forward(self, rows: Float[Tensor, "*rows inputs"]) -> Float[Tensor, "*rows outputs"]:
        """The products, biases added."""
        flat = rows.flatten(0, -2)
        missing = -len(flat) % ROWS_TOGETHER
        flat = nn.functional.pad(flat, (0, 0, 0, missing)) if missing else flat
        flat = self._with_ones(flat) if self.rounded else flat
        found = self.bias.new_empty(len(flat), len(self.bias))
        for some, into in zip(flat.split(ROWS_TOGETHER), found.split(ROWS_TOGETHER), strict=True):
            self._multiply(some, into)
        return found[: len(found) - missing].unflatten(0, rows.shape[:-1])

    def _with_ones(self, rows: Tensor) -> Tensor:
        ones = nn.functional.pad(rows.new_ones(1, 2), (0, _BIAS_COLUMNS - 2)).expand(len(rows), -1)
        return torch.cat([rows, ones], 1).bfloat16()

    def _multiply(self, rows: Tensor, into: Tensor) -> None:
        if self.rounded and rows.device.type == "cuda":
            torch.mm(rows, self.weight, out_dtype=torch.float32, out=into)
        elif self.rounded:
            into.copy_(rows @ self.weight)
        elif self.with_bias:
            torch.addmm(self.bias, rows, self.weight, out=into)
        else:
            torch.mm(rows, self.weight, out=into)


class _Shared:
    """One product for layers that see the same rows, computed when the first of them is asked."""

    def __init__(self, linears: Sequence[nn.Module], precision: Precision) -> None:
        layers = [each for each in linears if isinstance(each, nn.Linear)]
        self._product = BlockedLinear(layers, precision)
        self._sizes = [each.out_features for each in layers]
        self._rows: Tensor | None = None
        self._found: dict[int, Tensor] = {}

    def part(self, number: int, rows: Tensor) -> Tensor:
        """What layer `number` gives for these rows. It is handed out once: the caller may write into it."""
        flat = rows.flatten(0, -2)
        # The rows are kept until others come, so that nothing else can lie where they do.
        same = self._rows is not None and flat.data_ptr() == self._rows.data_ptr() and flat.shape == self._rows.shape
        if not same or number not in self._found:
            self._rows, self._found = flat, dict(enumerate(self._product(flat).split(self._sizes, dim=1)))
        return self._found.pop(number).unflatten(0, rows.shape[:-1])


class _Part(nn.Module):
    """One of the layers that share a product."""

    def __init__(self, shared: _Shared, number: int) -> None:
        super().__init__()
        self.shared, self.number = shared, number

    def forward(self, rows: Float[Tensor, "*rows inputs"]) -> Float[Tensor, "*rows outputs"]:
        return self.shared.part(self.number, rows)


class _Words(nn.Module):
    """Stands where an embedding was whose products are in a table: words stay numbers."""

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        self.weight = embedding.weight

    def forward(self, words: Int64[Tensor, "*rows"]) -> Int64[Tensor, "*rows"]:
        return words


class _Table(nn.Module):
    """What a linear layer gives for every word's embedding."""

    def __init__(self, embedding: nn.Embedding, linear: nn.Linear) -> None:
        super().__init__()
        self.rows = linear(embedding.weight).detach()

    def forward(self, words: Int64[Tensor, "*rows"]) -> Float[Tensor, "*rows outputs"]:
        return self.rows[words]


@torch.no_grad()
def packed(network: Network, precision: Precision = "float32") -> Network:
    """A copy of the network for inference with its products laid out for its device; other weights are shared."""
    shared = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    network = copy.deepcopy(network, shared).eval()
    if on_cpu(network):
        return _replaced(network, lambda linear: PackedLinear(linear, precision))
    _tabulate(network, "word_gates" if isinstance(network, Captioner) else "input_gates.0")
    if isinstance(network, Captioner):
        names = _that_see_the_hidden_state(network)
        together = _Shared([network.get_submodule(name) for name in names], precision)
        for number, name in enumerate(names):
            network.set_submodule(name, _Part(together, number))
    return _replaced(network, lambda linear: BlockedLinear([linear], precision))


def on_cpu(network: Captioner | LanguageModel) -> bool:
    """Whether its products are best laid out for a CPU."""
    return network.embedding.weight.device.type == "cpu"


def _replaced(network: Network, replace: Callable[[nn.Linear], nn.Module]) -> Network:
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                setattr(module, name, replace(child))
    return network


def _tabulate(network: Captioner | LanguageModel, gates: str) -> None:
    """What a word adds to the gates: one table instead of an embedding and a product."""
    linear = network.get_submodule(gates)
    assert isinstance(linear, nn.Linear)
    network.set_submodule(gates, _Table(network.embedding, linear))
    network.set_submodule("embedding", _Words(network.embedding))


def _that_see_the_hidden_state(captioner: Captioner) -> list[str]:
    """The layers that a step of the captioner calls with the same hidden state."""
    names = ["context_gate", "hidden_gates"]
    for name, attention in captioner.attentions.each.items():
        if isinstance(attention, Additive):
            names.append(f"attentions.each.{name}.query")
        if isinstance(attention, SelfAttention) and attention.hidden is not None:
            names.append(f"attentions.each.{name}.hidden")
    return names


def _has_onednn(weight: Tensor) -> bool:
    # The operator is torch's own (its compiler emits it) but not documented: where it is absent, linear serves.
    return (
        weight.device.type == "cpu"
        and platform.machine() in ("x86_64", "AMD64")
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )
