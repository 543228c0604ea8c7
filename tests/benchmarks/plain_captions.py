"""Captions the plain way, as MILAN goes about it.

Every beam has a copy of its neuron's features, and all that follows from them is computed again at every word. The
equations are those of `mami_core.captions`.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mami_core.captions.attention import Additive, Multiplicative, SelfAttention
from mami_core.captions.captioner import Captioner
from mami_core.captions.language_model import LanguageModel
from mami_core.captions.vocabulary import PAD, START, STOP, UNKNOWN


def standardised(captioner: Captioner, features: Tensor) -> Tensor:
    """float32, every feature with mean 0 and deviation 1."""
    return (features.float() - captioner.feature_mean) / captioner.feature_scale


def start(captioner: Captioner, features_RKD: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden state and cell before the first word."""
    mean = features_RKD.mean(1)
    return captioner.initial_hidden(mean).tanh(), captioner.initial_cell(mean).tanh()


def step(
    captioner: Captioner, features_RKD: Tensor, hidden: Tensor, cell: Tensor, words: Tensor
) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
    """Scores of the next word before the softmax, the new state, and the weights of each attention."""
    weights = {name: _weights(module, hidden, features_RKD) for name, module in captioner.attentions.each.items()}
    context = torch.stack([(each[..., None] * features_RKD).sum(1) for each in weights.values()]).sum(0)
    context = captioner.context_gate(hidden).sigmoid() * context
    gates = (
        captioner.word_gates(captioner.embedding(words))
        + captioner.context_gates(context)
        + captioner.hidden_gates(hidden)
    )
    hidden, cell = _lstm(gates, cell)
    return captioner.output(captioner.dropout(hidden)), hidden, cell, weights


def _weights(module: torch.nn.Module, hidden: Tensor, features: Tensor) -> Tensor:
    if isinstance(module, Additive):
        scores = (module.query(hidden)[:, None] + module.key(features)).tanh() @ module.energy
    elif isinstance(module, Multiplicative):
        scores = (module.key(features) * hidden[:, None]).sum(-1)
    else:
        assert isinstance(module, SelfAttention)
        return _self_weights(module, hidden, features)
    return scores.softmax(-1)


def _self_weights(module: SelfAttention, hidden: Tensor, features: Tensor) -> Tensor:
    assert module.attended is not None
    assert module.hidden is not None
    size = math.sqrt(module.query.out_features)
    among = (module.query(features) @ module.key(features).transpose(1, 2) / size).softmax(-1)
    attended = among @ features
    scores = (module.attended(attended) * module.hidden(hidden)[:, None]).sum(-1) / size
    return (scores.softmax(-1)[:, None] @ among)[:, 0]


def _lstm(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    enter, forget, candidate, leave = gates.chunk(4, dim=-1)
    cell = forget.sigmoid() * cell + enter.sigmoid() * candidate.tanh()
    return leave.sigmoid() * cell.tanh(), cell


@torch.inference_mode()
def caption(
    captioner: Captioner,
    language_model: LanguageModel,
    features_KD: Tensor,
    *,
    beam: int,
    length: int,
    lm_weight: float,
) -> tuple[str, float]:
    """One neuron's caption by mutual information among the `beam` likeliest, with its score."""
    features = standardised(captioner, features_KD)[None].expand(beam, -1, -1).contiguous()
    hidden, cell = start(captioner, features)
    device = features.device
    words = torch.full((beam, 1), START, device=device)
    totals = torch.full((beam,), -math.inf, device=device)
    totals[0] = 0  # the beams are still the same: one of them counts
    ended = torch.zeros(beam, dtype=torch.bool, device=device)
    for position in range(length):
        scores, hidden, cell, _ = step(captioner, features, hidden, cell, words[:, -1])
        log_probs = scores.log_softmax(-1)
        log_probs[:, [PAD, START, UNKNOWN, *([STOP] if position == 0 else [])]] = -math.inf
        log_probs[ended] = -math.inf
        log_probs[ended, PAD] = 0
        totals, chosen = (totals[:, None] + log_probs).flatten().topk(beam)
        parents, last = chosen // log_probs.shape[1], chosen % log_probs.shape[1]
        words = torch.cat([words[parents], last[:, None]], dim=1)
        hidden, cell, ended = hidden[parents], cell[parents], ended[parents] | (last == STOP)
    scores = totals - lm_weight * log_p_language(language_model, words[:, 1:])
    best = int(scores.argmax())
    return language_model.vocabulary.decode(words[best, 1:].tolist()), float(scores[best])


def log_p_language(model: LanguageModel, words: Tensor) -> Tensor:
    """Every caption from its first word to its last."""
    sequence = model.embedding(torch.cat([torch.full_like(words[:, :1], START), words[:, :-1]], dim=1))
    for from_input, from_hidden in zip(model.input_gates, model.hidden_gates, strict=True):
        hidden = cell = torch.zeros(len(words), model.config.hidden, device=words.device)
        outputs = []
        for position in range(words.shape[1]):
            hidden, cell = _lstm(from_input(sequence[:, position]) + from_hidden(hidden), cell)
            outputs.append(hidden)
        sequence = torch.stack(outputs, 1)
    log_probs = model.output(sequence).log_softmax(-1)
    return (log_probs.gather(2, words[..., None])[..., 0] * (words != PAD)).sum(1)


def training_loss(captioner: Captioner, features: Tensor, words: Tensor, num_words: float) -> Tensor:
    """−log p of a batch of descriptions by a number of words, and the doubly stochastic penalty, word by word."""
    features = standardised(captioner, features)
    hidden, cell = start(captioner, features)
    last, total = torch.full_like(words[:, 0], START), torch.zeros(())
    looks = {name: torch.zeros(features.shape[:2]) for name in captioner.attentions.each}
    for now in words.unbind(1):
        scores, hidden, cell, weights = step(captioner, features, hidden, cell, last)
        total = total + F.cross_entropy(scores, now, ignore_index=PAD, reduction="sum")
        looks = {name: looks[name] + each * (now != PAD)[:, None] for name, each in weights.items()}
        last = now
    penalty = torch.stack([((1 - each) ** 2).mean(1).sum() for each in looks.values()]).mean()
    return total / num_words + penalty / len(words)
