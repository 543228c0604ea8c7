"""MILAN's equations restated plainly, and a file as MILAN saves it, with random weights: no published one is needed.

Hernandez et al., 2022 (arXiv 2201.11114). The beam is that of AllenNLP, which MILAN uses; the regions are NetDissect's.
Everything is written for reading: one caption, one mask, one step after the other, without batching where it helps.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

WORDS = (
    "the",
    "dog",
    "'s",
    "heads",
    "red",
    "-",
    "white",
    ",",
    "and",
    "of",
    "round",
    "things",
    ".",
    "sky",
    "in",
    "green",
)
PYRAMIDS = {
    "alexnet": ("features.0", "features.3", "features.6", "features.8", "features.10"),
    **dict.fromkeys(("resnet18", "resnet50", "resnet101"), ("conv1", "layer1", "layer2", "layer3", "layer4")),
}
MEAN, STD = (torch.tensor(values).view(1, 3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


class Milan(nn.Module):
    """The decoder, its modules named as MILAN names them. Words 0…V−1, then start, stop, padding, unknown."""

    def __init__(
        self,
        *,
        words: Sequence[str] = WORDS,
        encoder: str = "resnet18",
        num_features: int = 1024,
        lm: bool = True,
        sizes: tuple[int, int, int] = (12, 32, 24),
        network: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.words, self.encoder_name = tuple(words), encoder
        embedding, hidden, attention = self.sizes = sizes
        self.start, self.stop, self.pad, self.unk = range(len(words), len(words) + 4)
        vocabulary = len(words) + 4
        self.encoder = nn.Module()
        self.encoder.register_buffer("mean", MEAN.clone())
        self.encoder.register_buffer("std", STD.clone())
        self.encoder.add_module("encoder", _holding(network or torchvision.models.get_model(encoder)))
        self.init_h = nn.Sequential(nn.Linear(num_features, hidden), nn.Tanh())
        self.init_c = nn.Sequential(nn.Linear(num_features, hidden), nn.Tanh())
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.attend = nn.ModuleDict(
            {
                "query_to_hidden": nn.Linear(hidden, attention),
                "key_to_hidden": nn.Linear(num_features, attention),
                "output": nn.Sequential(nn.Linear(attention, 1), nn.Softmax(dim=1)),
            }
        )
        self.feature_gate = nn.Sequential(nn.Linear(hidden, num_features), nn.Sigmoid())
        self.lstm = nn.LSTMCell(embedding + num_features, hidden)
        self.output = nn.Sequential(nn.Dropout(0.5), nn.Linear(hidden, vocabulary), nn.LogSoftmax(dim=-1))
        self.lm = _LanguageModel(vocabulary, self.pad, sizes) if lm else None

    # --- the decoder's equations

    def first(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """H and c before the first word."""
        mean = features.mean(1)
        return self.init_h(mean), self.init_c(mean)

    def step(self, features: Tensor, h: Tensor, c: Tensor, word: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Log p of every next word, the attention's weights, and the new h and c."""
        hidden = (self.attend["query_to_hidden"](h)[:, None] + self.attend["key_to_hidden"](features)).tanh()
        weights = self.attend["output"](hidden)
        seen = (weights * features).sum(1) * self.feature_gate(h)
        h, c = self.lstm(torch.cat([self.embedding(word), seen], 1), (h, c))
        return self.output(h), weights[..., 0], h, c

    def forced(self, features: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        """Log p of every word at every position given the words before it, and the attention's weights."""
        h, c = self.first(features)
        last, log_probs, attentions = torch.full_like(words[:, 0], self.start), [], []
        for position in range(words.shape[1]):
            predicted, weights, h, c = self.step(features, h, c, last)
            log_probs.append(predicted)
            attentions.append(weights)
            last = words[:, position]
        return torch.stack(log_probs, 1), torch.stack(attentions, 1)

    def loss(self, features: Tensor, words: Tensor) -> Tensor:
        """What MILAN trains on: the mean over words, and all steps' attention, those of padding as well."""
        log_probs, attentions = self.forced(features, words)
        penalty = ((1 - attentions.sum(1)) ** 2).mean()
        return F.nll_loss(log_probs.transpose(1, 2), words, ignore_index=self.pad) + penalty

    # --- its strategies, for one neuron

    def gains(self, features: Tensor, words: Sequence[int], lm_weight: float) -> Tensor:
        """What each next word adds to the score of these words."""
        log_p = self.forced(features, torch.tensor([[*words, 0]]))[0][0, -1]
        return log_p - lm_weight * self.lm.forced([*words, 0], self.start)[-1] if self.lm and lm_weight else log_p

    def greedy(self, features: Tensor, *, length: int, lm_weight: float = 0.0) -> list[int]:
        """The best next word each time; read up to the first stop word."""
        said: list[int] = []
        while len(said) < length and self.stop not in said:
            said.append(int(self.gains(features, said, lm_weight).argmax()))
        return said

    def beam(
        self, features: Tensor, *, size: int, length: int, lm_weight: float = 0.0
    ) -> list[tuple[float, list[int]]]:
        """The beams, best first. After a stop word only stop words follow, and add nothing."""
        beams: list[tuple[float, list[int]]] = [(0.0, [])]
        for _ in range(length):
            if all(said and said[-1] == self.stop for _, said in beams):
                break
            longer = []
            for score, said in beams:
                if said and said[-1] == self.stop:
                    longer.append((score, [*said, self.stop]))
                    continue
                gains = self.gains(features, said, lm_weight).tolist()
                longer += [(score + gain, [*said, word]) for word, gain in enumerate(gains)]
            beams = sorted(longer, key=lambda pair: -pair[0])[:size]
        return beams

    def rerank(self, features: Tensor, *, size: int, length: int, lm_weight: float) -> tuple[float, list[int]]:
        """The likeliest captions, and of them the best by mutual information."""
        assert self.lm is not None
        beams = [
            (score - lm_weight * self.lm.log_p(said, self.start, self.stop), said)
            for score, said in self.beam(features, size=size, length=length)
        ]
        return max(beams, key=lambda pair: pair[0])

    def log_p(self, features: Tensor, words: Sequence[int]) -> float:
        """Log p(c|E) of words up to the first stop word."""
        said = until(words, self.stop)
        log_probs = self.forced(features, torch.tensor([said]))[0][0]
        return float(log_probs[range(len(said)), said].sum())

    def ordinary(self, words: Sequence[int]) -> list[str]:
        """The words of the text: special ones are left out, and all from the first stop word."""
        return [self.words[word] for word in until(words, self.stop) if word < len(self.words)]

    # --- the encoder

    @torch.no_grad()
    def encode(self, images: Tensor, masks: Tensor) -> Tensor:
        """Vectors from pixels of 0 to 1 [n, 3, h, w] and masks [n, 1, h, w]."""
        network, kept = self.encoder.get_submodule("encoder.model"), {}
        hooks = [
            network.get_submodule(name).register_forward_hook(lambda _m, _i, out, name=name: kept.update({name: out}))
            for name in PYRAMIDS[self.encoder_name]
        ]
        network.eval()((images - MEAN) / STD)
        for hook in hooks:
            hook.remove()
        # Looked at only now: what was written over since is read as it has become.
        return torch.cat([self._pooled(kept[name], masks) for name in PYRAMIDS[self.encoder_name]], 1)

    @staticmethod
    def _pooled(level: Tensor, masks: Tensor) -> Tensor:
        small = F.interpolate(masks, size=level.shape[-2:], mode="bilinear", align_corners=False)
        vectors = []
        for maps, weights in zip(level, small, strict=True):
            nothing = bool(weights.isclose(torch.zeros_like(weights)).all())
            vectors.append((maps * (weights if nothing else weights / weights.sum())).sum((1, 2)))
        return torch.stack(vectors)

    # --- the file

    def properties(self, *, tokenizer: Any = None, **decoder: Any) -> dict[str, Any]:
        """All but the weights, nested as MILAN nests it."""
        embedding, hidden, attention = self.sizes

        def part(properties: dict[str, Any]) -> dict[str, Any]:
            return {"properties": properties, "children": {}}

        rules = {"lemmatize": False, "lowercase": True, "ignore_stop": False, "ignore_punct": False}
        indexer = part(
            {
                "vocab": part({"tokens": self.words}),
                "tokenize": part({"nlp": tokenizer or _spacy_english(), **rules}),
                **dict.fromkeys(("start", "stop", "pad", "unk"), True),
                "length": None,
            }
        )
        sizes = {"embedding_size": embedding, "hidden_size": hidden, "dropout": 0.5}
        made = {
            "indexer": indexer,
            "encoder": part({"config": self.encoder_name, "pretrained": True}),
            "lm": part({"indexer": indexer, **sizes, "layers": 2}) if self.lm else None,
            **sizes,
            "attention_hidden_size": attention,
            "length": 15,
            "strategy": "rerank" if self.lm else "beam",
            "temperature": 0.2,
            "beam_size": 50,
        }
        return {"properties": made | decoder, "children": {"encoder": "PyramidConvEncoder"}}

    def save(self, file: Path, **changes: Any) -> Path:
        """The file."""
        torch.save(self.properties(**changes) | {"state_dict": self.state_dict()}, file)
        return file


class _LanguageModel(nn.Module):
    def __init__(self, vocabulary: int, pad: int, sizes: tuple[int, int, int]) -> None:
        super().__init__()
        embedding, hidden, _ = sizes
        self.embedding = nn.Embedding(vocabulary, embedding, padding_idx=pad)
        self.lstm = nn.LSTM(embedding, hidden, num_layers=2, dropout=0.5, batch_first=True)
        self.output = nn.Sequential(nn.Linear(hidden, vocabulary), nn.LogSoftmax(dim=-1))

    def forced(self, words: Sequence[int], start: int) -> Tensor:
        """Log p of every word at every position."""
        return self.output(self.lstm(self.embedding(torch.tensor([[start, *words[:-1]]])))[0])[0]

    def log_p(self, words: Sequence[int], start: int, stop: int) -> float:
        """Log p(c) up to the first stop word."""
        said = until(words, stop)
        return float(self.forced(said, start)[range(len(said)), said].sum())


def milan(seed: int, **settings: Any) -> Milan:
    """A decoder with random weights, sharper than they are drawn: it says different things of different neurons."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        made = Milan(**settings).eval()
        for name, parameter in made.named_parameters():
            if not name.startswith("encoder."):
                parameter.mul_(3)
    return made.requires_grad_(False)


def until(words: Sequence[int], stop: int) -> list[int]:
    """The words up to and with the first stop word."""
    words = list(words)
    return words[: words.index(stop) + 1] if stop in words else words


def mask(activations: Tensor, threshold: float, size: int = 224) -> Tensor:
    """NetDissect's mask of one map: bilinear between the centres of its cells, zeros around, above the threshold."""
    height, width = activations.shape
    padded = F.pad(activations.double(), (1, 1, 1, 1))
    rows = (torch.arange(size, dtype=torch.float64) + 0.5) * height / size + 0.5
    columns = (torch.arange(size, dtype=torch.float64) + 0.5) * width / size + 0.5
    up = torch.empty(size, size, dtype=torch.float64)
    for y, row in enumerate(rows.tolist()):
        top, below = math.floor(row), row - math.floor(row)
        line = padded[top] * (1 - below) + padded[min(top + 1, height + 1)] * below
        left = columns.floor().long()
        share = columns - left
        up[y] = line[left] * (1 - share) + line[(left + 1).clamp(max=width + 1)] * share
    return up > threshold


def _holding(network: nn.Module) -> nn.Module:
    holder = nn.Module()
    holder.add_module("model", network)
    return holder


def _spacy_english() -> tuple[Any, bytes]:
    import spacy

    english = spacy.blank("en")
    return english.config, english.to_bytes()
