"""Texts → sentence embeddings: vectors that point the same way where texts mean the same.

The network is a transformer for sentences (Reimers & Gurevych, EMNLP 2019): the mean of its last layer's word vectors.
A text's vector does not depend, to the bit, on the texts beside it: batches have fixed shapes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mami_core.errors import ConfigError
from mami_core.metrics.networks import PACKAGED, network_folder, quiet

_BATCH = 32
_STEP, _LONGEST = 8, 128
"""Texts are padded to a multiple of so many word pieces; longer ones are cut."""


@dataclass(frozen=True, eq=False)
class Sentences:
    """A sentence encoder; see `load_sentences`."""

    name: str
    network: nn.Module
    tokenizer: Any

    @property
    def size(self) -> int:
        """Numbers of a vector."""
        return int(self.network.get_parameter("embeddings.word_embeddings.weight").shape[1])

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> Float[Tensor, "texts size"]:
        """A vector of length 1 for each text, on the CPU. Equal texts are encoded once."""
        distinct = list(dict.fromkeys(texts))
        vectors = torch.empty(len(distinct), self.size)
        by_length: dict[int, list[int]] = {}
        for place, text in enumerate(distinct):
            pieces = len(self.tokenizer(text, truncation=True, max_length=_LONGEST)["input_ids"])
            by_length.setdefault(-(-pieces // _STEP) * _STEP, []).append(place)
        for length, places in by_length.items():
            for start in range(0, len(places), _BATCH):
                some = places[start : start + _BATCH]
                vectors[some] = self._encode([distinct[place] for place in some], length)
        rows = {text: row for row, text in enumerate(distinct)}
        return vectors[[rows[text] for text in texts]]

    def _encode(self, texts: list[str], length: int) -> Float[Tensor, "texts size"]:
        padded = texts + [""] * (_BATCH - len(texts))
        inputs = self.tokenizer(
            padded, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        ).to(self.network.get_parameter("embeddings.word_embeddings.weight").device)
        words = self.network(**inputs).last_hidden_state * inputs["attention_mask"][..., None]
        return nn.functional.normalize(words.sum(1)[: len(texts)], dim=1).cpu()  # the mean points where the sum does


def load_sentences(model: str = PACKAGED, *, device: str = "cpu") -> Sentences:
    """A sentence encoder that is on this machine: the packaged one, a folder, or a name in the local cache.

    Raises:
        ConfigError: it is not on this machine, or no such network.
    """
    folder = network_folder(model)
    with quiet():
        from transformers import AutoModel, AutoTokenizer

        try:
            network = AutoModel.from_pretrained(folder, local_files_only=True).float()
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise ConfigError(f"Sentence encoder '{model}' cannot be used: {error}") from error
    name = folder.name if Path(model).is_dir() else model
    return Sentences(name, network.eval().requires_grad_(False).to(device), tokenizer)
