"""log p(word | features, words so far): the MAMI captioner, an LSTM that attends to a neuron's exemplars.

Equations: Hernandez et al., 2022 (arXiv 2201.11114) with the attentions of arXiv 2401.02744. f_1…f_k are the exemplars'
features, h the hidden state, y the last word:

    h_0 = tanh(W_h mean(f)),  c_0 = tanh(W_c mean(f))
    context = σ(W_g h) · fused attention of h over f
    h, c = LSTM([embedding(y); context], h, c)
    log p = log softmax(W_o dropout(h))

With `reading="after"`, Luong's way (arXiv 1508.04025), the LSTM goes first and words are read off r:

    h, c = LSTM(embedding(y), h, c)        with "feeding": LSTM([embedding(y); r], h, c), r from the word before
    r = tanh(W_r [h; σ(W_g h) · fused attention of h over f])
    log p = log softmax(W_o dropout(r))
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from mami_core.captions import lstm
from mami_core.captions.attention import (
    ATTENTIONS,
    Additive,
    Attention,
    AttentionName,
    Attentions,
    Fusion,
    LuongForm,
    Memory,
    Multiplicative,
    SelfAttention,
    SelfContext,
)
from mami_core.captions.evidence import Evidence
from mami_core.captions.taught import Taught
from mami_core.captions.vocabulary import START, Vocabulary
from mami_core.errors import ConfigError

Reading = Literal["before", "after", "feeding"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionerConfig:
    """The captioner's shape. `dataclasses.asdict` in a JSON file restores it."""

    num_features: int
    """Numbers in an exemplar's feature vector: the encoder's pyramid."""
    attentions: Sequence[AttentionName] = ATTENTIONS
    """Any non-empty subset of the three; their order does not matter."""
    fusion: Fusion = "sum"
    """How their contexts become one. The sum is the paper's "adding several attention results into one"."""
    luong: LuongForm = "general"
    """Luong's energy. "dot" has no weights and needs as many features as hidden numbers; "scaled" is "general" divided
    by √hidden."""
    self_context: SelfContext = "hidden"
    """Self-attention gives k vectors: attended by the hidden state, or averaged ("mean": the same for every word)."""
    reading: Reading = "before"
    """When the exemplars are read: before the LSTM's step, into its input; after it, into the word's prediction; or
    after it and into the next step's input too (Luong's input feeding)."""
    num_ranks: int = 0
    """So many ranks of exemplars, strongest first, have a learned weight each, in the mean that the captioner starts
    from and in every attention; further ones share the last's. 0 weighs all alike."""
    embedding: int = 128
    hidden: int = 512
    attention_size: int = 512
    """Length of queries and keys in additive and self-attention."""
    dropout: float = 0.5

    def __post_init__(self) -> None:
        for name in ("num_features", "embedding", "hidden", "attention_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout is a probability below 1, not {self.dropout}.")
        if self.num_ranks < 0:
            raise ConfigError(f"num_ranks must be at least 0, not {self.num_ranks}.")
        self._check_choices()
        if "luong" in self.attentions and self.luong == "dot" and self.hidden != self.num_features:
            raise ConfigError(
                f"Luong's dot form multiplies the hidden state ({self.hidden} numbers) with the features "
                f'({self.num_features}): make hidden={self.num_features}, or take luong="general".'
            )
        object.__setattr__(self, "attentions", tuple(name for name in ATTENTIONS if name in self.attentions))

    def _check_choices(self) -> None:
        chosen = list(self.attentions)
        if not chosen or len(set(chosen)) != len(chosen) or not set(chosen) <= set(ATTENTIONS):
            raise ConfigError(f"attentions must be one or more of {ATTENTIONS}, each once, not {chosen}.")
        options = (("fusion", Fusion), ("luong", LuongForm), ("self_context", SelfContext), ("reading", Reading))
        for name, choices in options:
            if getattr(self, name) not in get_args(choices):
                raise ConfigError(f"{name} must be one of {get_args(choices)}, not {getattr(self, name)!r}.")

    @property
    def num_context(self) -> int:
        """Numbers in the fused context."""
        return self.num_features * (len(self.attentions) if self.fusion == "concatenation" else 1)


def milan(num_features: int) -> CaptionerConfig:
    """MILAN's captioner: Bahdanau attention alone (arXiv 2201.11114). `mami_core` compares MAMI with it."""
    return CaptionerConfig(num_features=num_features, attentions=("bahdanau",))


@dataclass(frozen=True, slots=True)
class CaptionerState:
    """Where the captioner is after some words. Rows are hypotheses, those of one neuron side by side."""

    memory: Memory
    hidden: Float[Tensor, "rows hidden"]
    cell: Float[Tensor, "rows hidden"]
    read: Float[Tensor, "rows hidden"] | None = None
    """r, where exemplars are read after the LSTM's step; otherwise words are read off the hidden state."""

    @property
    def source(self) -> Float[Tensor, "rows hidden"]:
        """What the next word is predicted from."""
        return self.hidden if self.read is None else self.read

    def reorder(
        self, rows: Int64[Tensor, " new_rows"], neurons: Int64[Tensor, " kept"] | None = None
    ) -> "CaptionerState":
        """The state whose row r is the old row `rows[r]`; with `neurons`, only those neurons are left."""
        memory = self.memory if neurons is None else self.memory.keep(neurons)
        return CaptionerState(
            memory, self.hidden[rows], self.cell[rows], None if self.read is None else self.read[rows]
        )


class Captioner(nn.Module):
    """The network. A neuron has 1 to k exemplars: `present` says which rows of `features` are there."""

    feature_mean: Tensor
    feature_scale: Tensor

    def __init__(
        self,
        config: CaptionerConfig,
        vocabulary: Vocabulary,
        taught: Taught | None = None,
        evidence: Evidence | None = None,
    ) -> None:
        """With first weights, drawn.

        Args:
            config: Its shape.
            vocabulary: The words that it says.
            taught: The sequences of words that its captions keep to, if they are known.
            evidence: What its captions are held against, if there is something.
        """
        super().__init__()
        self.config, self.vocabulary, self.taught, self.evidence = config, vocabulary, taught, evidence
        hidden, context = config.hidden, config.num_context
        self.register_buffer("feature_mean", torch.zeros(config.num_features))
        self.register_buffer("feature_scale", torch.ones(config.num_features))
        self.initial_hidden = nn.Linear(config.num_features, hidden)
        self.initial_cell = nn.Linear(config.num_features, hidden)
        attentions = {name: _attention(name, config) for name in config.attentions}
        self.attentions = Attentions(attentions, config.fusion, num_ranks=config.num_ranks)
        self.context_gate = nn.Linear(hidden, context)
        self.embedding = nn.Embedding(len(vocabulary), config.embedding)
        self.word_gates = nn.Linear(config.embedding, 4 * hidden)
        if config.reading == "before":
            self.context_gates = nn.Linear(context, 4 * hidden, bias=False)
        else:
            self.reader = nn.Linear(hidden + context, hidden)
        if config.reading == "feeding":
            self.read_gates = nn.Linear(hidden, 4 * hidden, bias=False)
        self.hidden_gates = nn.Linear(hidden, 4 * hidden, bias=False)
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(hidden, len(vocabulary))
        drawn = (getattr(self, name, None) for name in ("word_gates", "context_gates", "read_gates", "hidden_gates"))
        lstm.initialize(hidden, *(gates for gates in drawn if gates is not None))

    def start(
        self, features: Float[Tensor, "neurons k features"], present: Bool[Tensor, "neurons k"]
    ) -> CaptionerState:
        """The state before the first word, one row a neuron. Every neuron needs at least one present exemplar."""
        standard = (features.to(self.feature_mean.dtype) - self.feature_mean) / self.feature_scale
        # Absent rows may hold anything, NaN included; 0 · weight must be 0.
        standard = standard.masked_fill(~present[..., None], 0)
        memory = self.attentions.memory(standard, present)
        mean = self.attentions.mean(memory)
        hidden, cell = self.initial_hidden(mean).tanh(), self.initial_cell(mean).tanh()
        return CaptionerState(
            memory, hidden, cell, None if self.config.reading == "before" else torch.zeros_like(hidden)
        )

    def step(
        self, state: CaptionerState, words: Int64[Tensor, " rows"]
    ) -> tuple[Float[Tensor, "rows vocabulary"], CaptionerState, dict[str, Float[Tensor, "rows k"]]]:
        """Log-probabilities of each row's next word, given its last one; the attention weights they were read with.

        Rows are a multiple of the neurons: row r belongs to neuron r // (rows / neurons).
        """
        state, weights = self._advance(state, self.word_gates(self.embedding(words)))
        return self.output(self.dropout(state.source)).log_softmax(-1), state, weights

    def forward(
        self,
        features: Float[Tensor, "neurons k features"],
        present: Bool[Tensor, "neurons k"],
        words: Int64[Tensor, "neurons length"],
    ) -> tuple[Float[Tensor, "neurons length vocabulary"], dict[str, Float[Tensor, "neurons length k"]]]:
        """Teacher forcing: for every position the log-probabilities of its word, given the words before it.

        `words` are targets, as `Vocabulary.encode` gives them (no start word). Also gives the attention weights.
        """
        state = self.start(features, present)
        gates = self.word_gates(self.embedding(shifted(words)))
        sources, weights = [], []
        for gates_now in gates.unbind(1):
            state, weights_now = self._advance(state, gates_now)
            sources.append(state.source)
            weights.append(weights_now)
        log_probs = self.output(self.dropout(torch.stack(sources, 1))).log_softmax(-1)
        return log_probs, {name: torch.stack([now[name] for now in weights], 1) for name in self.config.attentions}

    def _advance(
        self, state: CaptionerState, word_gates: Float[Tensor, "rows gates"]
    ) -> tuple[CaptionerState, dict[str, Float[Tensor, "rows k"]]]:
        if state.read is not None:
            return self._advance_then_read(state, state.read, word_gates)
        context, weights = self._context(state.hidden, state.memory)
        sources = (self.hidden_gates(state.hidden), word_gates, self.context_gates(context))
        hidden, cell = lstm.update(sources, state.cell)
        return CaptionerState(state.memory, hidden, cell), weights

    def _advance_then_read(
        self, state: CaptionerState, read: Float[Tensor, "rows hidden"], word_gates: Float[Tensor, "rows gates"]
    ) -> tuple[CaptionerState, dict[str, Float[Tensor, "rows k"]]]:
        sources = (self.hidden_gates(state.hidden), word_gates)
        if self.config.reading == "feeding":
            sources = (*sources, self.read_gates(read))
        hidden, cell = lstm.update(sources, state.cell)
        context, weights = self._context(hidden, state.memory)
        read = self.reader(torch.cat([hidden, context], 1)).tanh()
        return CaptionerState(state.memory, hidden, cell, read), weights

    def _context(
        self, hidden: Float[Tensor, "rows hidden"], memory: Memory
    ) -> tuple[Float[Tensor, "rows context"], dict[str, Float[Tensor, "rows k"]]]:
        """The gated context, and the weights of the attentions."""
        context, weights = self.attentions(hidden, memory)
        return lstm.sigmoid(self.context_gate(hidden)) * context, weights


def shifted(words: Int64[Tensor, "rows length"]) -> Int64[Tensor, "rows length"]:
    """What teacher forcing reads at each position: the start word, then each target's predecessor."""
    return torch.cat([torch.full_like(words[:, :1], START), words[:, :-1]], dim=1)


def _attention(name: AttentionName, config: CaptionerConfig) -> Attention:
    if name == "self":
        return SelfAttention(config.num_features, config.hidden, config.attention_size, config.self_context)
    if name == "luong" and config.luong != "concat":
        return Multiplicative(config.num_features, config.hidden, form=config.luong)
    return Additive(config.num_features, config.hidden, config.attention_size)
