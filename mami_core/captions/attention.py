"""Attention over a neuron's exemplars: Bahdanau, Luong, self-attention, and how their contexts become one.

Every attention gives weights over the exemplars, and its context is the exemplars' features averaged by them. So
contexts live in one space and can be added, and the weights say what each word was read from. Whatever depends on the
exemplars alone (the keys) is computed once per neuron, before the first word.

Axes: N neurons, B beams (hypotheses of one neuron), K exemplars, D features, H hidden, A attention size.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from mami_core import kernels

AttentionName = Literal["bahdanau", "luong", "self"]
Fusion = Literal["sum", "concatenation", "weights"]
LuongForm = Literal["general", "dot", "concat", "scaled"]
SelfContext = Literal["hidden", "mean"]

ATTENTIONS: tuple[AttentionName, ...] = get_args(AttentionName)

Keys = tuple[Tensor, ...]
"""What an attention needs to know of the exemplars; each tensor's first axis is the neurons."""

# The additive energies of one neuron and 50 beams: on a CPU a chunk that stays in cache, elsewhere one that fits.
_CHUNK_CPU = 1 << 19
_CHUNK_ACCELERATOR = 1 << 28


@dataclass(frozen=True, slots=True)
class Memory:
    """What the captioner keeps of its neurons; all beams of a neuron share it."""

    features: Float[Tensor, "neurons k features"]
    present: Bool[Tensor, "neurons k"]
    keys: Mapping[str, Keys]

    def keep(self, neurons: Int64[Tensor, " kept"]) -> "Memory":
        """The memory of these neurons alone."""
        keys = {name: tuple(part[neurons] for part in parts) for name, parts in self.keys.items()}
        return Memory(self.features[neurons], self.present[neurons], keys)


def masked_softmax(
    scores: Float[Tensor, "neurons beams k"], present: Bool[Tensor, "neurons k"]
) -> Float[Tensor, "neurons beams k"]:
    """Softmax over the exemplars that are there; absent ones get exactly 0."""
    return scores.masked_fill(~present[:, None], -math.inf).softmax(-1)


def _shares(weights: Float[Tensor, "*shape k"]) -> Float[Tensor, "*shape k"]:
    return weights / weights.sum(-1, keepdim=True)


def _products(
    queries_NBA: Float[Tensor, "neurons b a"], keys_NKA: Float[Tensor, "neurons k a"]
) -> Float[Tensor, "neurons b k"]:
    """The dot product of every query with every key of its neuron."""
    # Where vectors are not a whole number of registers, bits would depend on where in memory a neuron begins.
    if missing := -queries_NBA.shape[-1] % 16:
        queries_NBA, keys_NKA = (nn.functional.pad(each, (0, missing)) for each in (queries_NBA, keys_NKA))
    return torch.bmm(queries_NBA, keys_NKA.transpose(1, 2))


def _softmax_of_products(
    queries_NBA: Float[Tensor, "neurons b a"],
    keys_NKA: Float[Tensor, "neurons k a"],
    present: Bool[Tensor, "neurons k"],
    scale: float,
) -> Float[Tensor, "neurons b k"]:
    if kernels.serve(queries_NBA):
        return kernels.weights(queries_NBA, keys_NKA, present, scale=scale)
    products_NBK = _products(queries_NBA, keys_NKA)
    return masked_softmax(products_NBK * scale if scale != 1 else products_NBK, present)


def _averages(
    weights_NBK: Float[Tensor, "neurons b k"], features_NKD: Float[Tensor, "neurons k d"]
) -> Float[Tensor, "neurons b d"]:
    if kernels.serve(weights_NBK):
        return kernels.averages(weights_NBK, features_NKD)
    return torch.bmm(weights_NBK, features_NKD)


class Attention(nn.Module, ABC):
    """What the three have in common: keys once per neuron, then weights for every hidden state."""

    @abstractmethod
    def keys(self, features: Float[Tensor, "neurons k features"], present: Bool[Tensor, "neurons k"]) -> Keys:
        """What follows from the exemplars alone."""
        ...

    @abstractmethod
    def forward(
        self, hidden: Float[Tensor, "neurons beams hidden"], keys: Keys, present: Bool[Tensor, "neurons k"]
    ) -> Float[Tensor, "neurons beams k"]:
        """The weights of the exemplars: they sum to 1, and are 0 where there is none."""
        ...


class Additive(Attention):
    """e_s = vᵀ tanh(W_q h + W_k f_s) (Bahdanau et al., 2015, arXiv 1409.0473; Luong's "concat" is the same).

    Computed as tanh(q + k) = 1 − 2 / (1 + e^2q · e^2k): one exponential a query and one a key, none a pair of them. It
    is exact unless a query and a key beyond 20 nearly cancel.
    """

    def __init__(self, num_features: int, hidden: int, attention_size: int) -> None:
        super().__init__()
        self.query = nn.Linear(hidden, attention_size)
        self.key = nn.Linear(num_features, attention_size, bias=False)
        bound = 1 / math.sqrt(attention_size)
        self.energy = nn.Parameter(torch.empty(attention_size).uniform_(-bound, bound))

    def keys(self, features: Float[Tensor, "neurons k features"], present: Bool[Tensor, "neurons k"]) -> Keys:
        """The e^2k of all exemplars."""
        return (_exp2(self.key(features)),)

    def forward(
        self, hidden: Float[Tensor, "neurons beams hidden"], keys: Keys, present: Bool[Tensor, "neurons k"]
    ) -> Float[Tensor, "neurons beams k"]:
        """Softmax over s of e_s."""
        query_NBA, key_NKA = self.query(hidden), keys[0]
        if kernels.serve(query_NBA):
            return kernels.weights(query_NBA, key_NKA, present, energy_A=self.energy)
        query_NBA = _exp2(query_NBA)
        size = query_NBA.shape[1] * key_NKA[0].numel()
        limit = _CHUNK_CPU if hidden.device.type == "cpu" else _CHUNK_ACCELERATOR
        chunk = max(1, limit // max(1, size))
        pairs = zip(query_NBA.split(chunk), key_NKA.split(chunk), strict=True)
        scores = [_energies(query, key, -2 * self.energy) for query, key in pairs]
        return masked_softmax(torch.cat(scores), present)


def _exp2(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    # Beyond 20 a tanh is 1. Within, the product of two stays within float32.
    return (2 * x).clamp(-40, 40).exp()


def _energies(
    query_NBA: Float[Tensor, "n b a"], key_NKA: Float[Tensor, "n k a"], energy_A: Float[Tensor, " a"]
) -> Float[Tensor, "n b k"]:
    """Σ −2v / (1 + e^2q · e^2k): what is missing to e_s is Σv, the same for all s, and softmax ignores it."""
    pairs_NBKA = (query_NBA[:, :, None] * key_NKA[:, None]).add_(1)
    # A sum instead of a matrix-vector product, whose bits depend on how many rows it has.
    return (energy_A / pairs_NBKA).sum(-1)


class Multiplicative(Attention):
    """e_s = hᵀ W f_s ("general"), or e_s = hᵀ f_s ("dot") (Luong et al., 2015, arXiv 1508.04025).

    "scaled" divides the general form by √H, as self-attention does, so that a softmax over them is not all or nothing.
    """

    def __init__(self, num_features: int, hidden: int, *, form: LuongForm) -> None:
        super().__init__()
        self.scale = 1 / math.sqrt(hidden) if form == "scaled" else 1.0
        self.key = nn.Identity() if form == "dot" else nn.Linear(num_features, hidden, bias=False)

    def keys(self, features: Float[Tensor, "neurons k features"], present: Bool[Tensor, "neurons k"]) -> Keys:
        """W f_s, or f_s itself."""
        return (self.key(features),)

    def forward(
        self, hidden: Float[Tensor, "neurons beams hidden"], keys: Keys, present: Bool[Tensor, "neurons k"]
    ) -> Float[Tensor, "neurons beams k"]:
        """Softmax over s of e_s."""
        return _softmax_of_products(hidden, keys[0], present, self.scale)


class SelfAttention(Attention):
    """Scaled dot-product attention among the exemplars (Vaswani et al., 2017, arXiv 1706.03762).

    o_s = Σ_t A_st f_t with A = softmax((W_q f)(W_k f)ᵀ/√A). Its context is either the o_s attended by the hidden state,
    with energies (W_h h)ᵀ(W_o o_s)/√A, or their mean, which then is the same for every word. Either way the context is
    an average of the features themselves, and A is computed once per neuron.
    """

    def __init__(self, num_features: int, hidden: int, attention_size: int, context: SelfContext) -> None:
        super().__init__()
        self.scale = 1 / math.sqrt(attention_size)
        self.query = nn.Linear(num_features, attention_size, bias=False)
        self.key = nn.Linear(num_features, attention_size, bias=False)
        self.attended = nn.Linear(num_features, attention_size, bias=False) if context == "hidden" else None
        self.hidden = nn.Linear(hidden, attention_size) if context == "hidden" else None

    def keys(self, features: Float[Tensor, "neurons k features"], present: Bool[Tensor, "neurons k"]) -> Keys:
        """A and W_o o_s, or the mean of A's rows."""
        among_NKK = _softmax_of_products(self.query(features), self.key(features), present, self.scale)
        if self.attended is None:
            return ((among_NKK * present[..., None]).sum(1, keepdim=True) / present.sum(1)[:, None, None],)
        # W_o o_s = Σ_t A_st (W_o f_t): project first, the features are the longer vectors.
        return among_NKK, _averages(among_NKK, self.attended(features))

    def forward(
        self, hidden: Float[Tensor, "neurons beams hidden"], keys: Keys, present: Bool[Tensor, "neurons k"]
    ) -> Float[Tensor, "neurons beams k"]:
        """The weights of the f_t: A's rows averaged, by the hidden state's weights of the o_s or equally."""
        if self.hidden is None:
            return keys[0].expand(-1, hidden.shape[1], -1)
        among_NKK, attended_NKA = keys
        weights_NBK = _softmax_of_products(self.hidden(hidden), attended_NKA, present, self.scale)
        return _averages(weights_NBK, among_NKK)


class Attentions(nn.Module):
    """Several attentions over the same exemplars, and their contexts fused into one.

    "sum" adds the contexts, "weights" adds them with learned weights that sum to 1, "concatenation" puts them side by
    side, so that the context is as many times longer.
    """

    def __init__(self, modules: Mapping[AttentionName, Attention], fusion: Fusion, *, num_ranks: int = 0) -> None:
        super().__init__()
        self.each = nn.ModuleDict({str(name): module for name, module in modules.items()})
        self.fusion = fusion
        weighted = fusion == "weights" and len(modules) > 1
        self.balance = nn.Parameter(torch.zeros(len(modules))) if weighted else None
        self.ranks = nn.Parameter(torch.zeros(num_ranks)) if num_ranks else None

    def memory(self, features: Float[Tensor, "neurons k features"], present: Bool[Tensor, "neurons k"]) -> Memory:
        """Everything that follows from the exemplars alone."""
        keys = {name: attention.keys(features, present) for name, attention in self._items()}
        return Memory(features, present, keys)

    def forward(
        self, hidden: Float[Tensor, "rows hidden"], memory: Memory
    ) -> tuple[Float[Tensor, "rows context"], dict[str, Float[Tensor, "rows k"]]]:
        """The fused context and each attention's weights. Row r belongs to neuron r // (rows / neurons)."""
        hidden_NBH = hidden.view(len(memory.present), -1, hidden.shape[1])
        weights = {name: attention(hidden_NBH, memory.keys[name], memory.present) for name, attention in self._items()}
        if self.ranks is not None:
            ranks_K = self._rank_weights(memory.present.shape[1])
            weights = {name: _shares(each * ranks_K) for name, each in weights.items()}
        context_NBD = self._fuse(list(weights.values()), memory.features)
        return context_NBD.flatten(0, 1), {name: each.flatten(0, 1) for name, each in weights.items()}

    def mean(self, memory: Memory) -> Float[Tensor, "neurons features"]:
        """The exemplars' mean, weighted by rank where ranks have weights."""
        if self.ranks is None:
            return memory.features.sum(1) / memory.present.sum(1, keepdim=True)
        weights_NK = _shares(self._rank_weights(memory.present.shape[1]) * memory.present)
        return (weights_NK[..., None] * memory.features).sum(1)

    def _rank_weights(self, k: int) -> Float[Tensor, " {k}"]:
        """One positive number an exemplar; 1 before training."""
        assert self.ranks is not None
        return self.ranks[torch.arange(k, device=self.ranks.device).clamp(max=len(self.ranks) - 1)].exp()

    def _items(self) -> Iterable[tuple[str, Attention]]:
        return cast("Iterable[tuple[str, Attention]]", self.each.items())

    def _fuse(
        self, weights: list[Float[Tensor, "neurons beams k"]], features: Float[Tensor, "neurons k features"]
    ) -> Float[Tensor, "neurons beams context"]:
        if self.fusion == "concatenation":
            contexts = _averages(torch.cat(weights, dim=1), features)
            return torch.cat(contexts.chunk(len(weights), dim=1), dim=-1)
        if self.balance is not None:
            weights = [share * each for share, each in zip(self.balance.softmax(0), weights, strict=True)]
        # A context is linear in its weights, so adding the weights adds the contexts.
        return _averages(torch.stack(weights).sum(0), features)
