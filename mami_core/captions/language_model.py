"""log p(word | words so far): an LSTM over descriptions alone."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from mami_core.captions import lstm
from mami_core.captions.captioner import shifted
from mami_core.captions.vocabulary import Vocabulary
from mami_core.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageModelConfig:
    """The language model's shape. `dataclasses.asdict` in a JSON file restores it."""

    embedding: int = 128
    hidden: int = 512
    layers: int = 2
    dropout: float = 0.5
    """Between the layers, and before the output."""

    def __post_init__(self) -> None:
        for name in ("embedding", "hidden", "layers"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout is a probability below 1, not {self.dropout}.")


@dataclass(frozen=True, slots=True)
class LanguageState:
    """Where the language model is after some words, one row a hypothesis."""

    hidden: tuple[Float[Tensor, "rows hidden"], ...]
    """One a layer."""
    cell: tuple[Float[Tensor, "rows hidden"], ...]

    def reorder(self, rows: Int64[Tensor, " new_rows"]) -> "LanguageState":
        """The state whose row r is the old row `rows[r]`."""
        return LanguageState(tuple(each[rows] for each in self.hidden), tuple(each[rows] for each in self.cell))

    def first(self, num_rows: int) -> "LanguageState":
        """The state of the first rows alone."""
        return LanguageState(
            tuple(each[:num_rows] for each in self.hidden), tuple(each[:num_rows] for each in self.cell)
        )


class LanguageModel(nn.Module):
    """The network: embedding, LSTM layers, output."""

    def __init__(self, config: LanguageModelConfig, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.config, self.vocabulary = config, vocabulary
        hidden = config.hidden
        inputs = (config.embedding, *[hidden] * (config.layers - 1))
        self.embedding = nn.Embedding(len(vocabulary), config.embedding)
        self.input_gates = nn.ModuleList(nn.Linear(size, 4 * hidden) for size in inputs)
        self.hidden_gates = nn.ModuleList(nn.Linear(hidden, 4 * hidden, bias=False) for _ in inputs)
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(hidden, len(vocabulary))
        for from_input, from_hidden in zip(self.input_gates, self.hidden_gates, strict=True):
            lstm.initialize(hidden, from_input, from_hidden)

    def start(self, num_rows: int) -> LanguageState:
        """The state before the first word."""
        zeros = (self.embedding.weight.new_zeros(num_rows, self.config.hidden),) * self.config.layers
        return LanguageState(zeros, zeros)

    def step(
        self, state: LanguageState, words: Int64[Tensor, " rows"]
    ) -> tuple[Float[Tensor, "rows vocabulary"], LanguageState]:
        """Log-probabilities of each row's next word, given its last one."""
        rows, hidden, cell = self.embedding(words), [], []
        for layer, (from_input, from_hidden) in enumerate(zip(self.input_gates, self.hidden_gates, strict=True)):
            sources = (from_hidden(state.hidden[layer]), from_input(rows))
            hidden_now, cell_now = lstm.update(sources, state.cell[layer])
            hidden.append(hidden_now)
            cell.append(cell_now)
            rows = self.dropout(hidden_now)
        return self.output(rows).log_softmax(-1), LanguageState(tuple(hidden), tuple(cell))

    def forward(self, words: Int64[Tensor, "rows length"]) -> Float[Tensor, "rows length vocabulary"]:
        """Teacher forcing: for every position the log-probabilities of its word, given the words before it.

        `words` are targets, as `Vocabulary.encode` gives them (no start word).
        """
        sequence = self.embedding(shifted(words))
        for from_input, from_hidden in zip(self.input_gates, self.hidden_gates, strict=True):
            hidden = cell = sequence.new_zeros(len(words), self.config.hidden)
            outputs = []
            for gates in from_input(sequence).unbind(1):
                hidden, cell = lstm.update((from_hidden(hidden), gates), cell)
                outputs.append(hidden)
            sequence = self.dropout(torch.stack(outputs, 1))
        return self.output(sequence).log_softmax(-1)
