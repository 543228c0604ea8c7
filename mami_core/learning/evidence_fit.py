"""Annotated neurons of whose exemplars it is known what they show → the probe that holds captions against exemplars."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from mami_core.captions.evidence import Evidence, EvidenceConfig, is_whole
from mami_core.features import EncoderConfig, numbers_of_forms, numbers_of_looks
from mami_core.features.looks import COLOURS, FILLING, LOOKS
from mami_core.learning.dissected.choose import COARSE
from mami_core.learning.dissected.truth import told_by_pixels
from mami_core.learning.fit import Epoch, Share, TrainingState, fit
from mami_core.learning.training import NEURONS_AT_ONCE, Lessons
from mami_core.tokenizers import tokenize

_OF_LAYERS, _FEWEST = ("noun", "place", "surface", "look"), 200
"""Kinds of phrases that can be true of whole layers; exemplars of a layer that tell."""
_COARSE = (*COARSE, "grey")
"""What is said of a unit for want of anything better: between black and white there is always some grey."""
_LEANING, _LEAN = ("noun", "place"), 0.05
"""What whole layers of other networks can show more of than those that teach: MobileNetV2's lie further to one side of
pictures, by so much, and its last look at furry animals by nearly as much."""


def first_evidence(lessons: Lessons, *, dropout: float = 0.3, encoder: EncoderConfig | None = None) -> Evidence | None:
    """The probe with first weights, drawn; None where nothing is known of the exemplars that captions can say.

    Args:
        lessons: What there is to learn.
        dropout: Share of the hidden numbers that each training step leaves out.
        encoder: What the features come from, so that what they say by themselves (how large a region is, what pixels
            tell) need not be learned.
    """
    phrases = tuple(lessons.phrases.values())
    if not phrases:
        return None
    num_features = lessons.examples.features.shape[-1]
    encoder = encoder or EncoderConfig()
    looks, forms = (numbers(encoder, num_features) for numbers in (numbers_of_looks, numbers_of_forms))
    config = EvidenceConfig(
        num_features=num_features,
        phrases=phrases,
        dropout=dropout,
        region_size=num_features - 1 if encoder.place else None,
        told_by=told_by_pixels(phrases, looks, forms),
        filling=tuple(number for number, name in zip(looks, (*COLOURS, *LOOKS), strict=False) if name in FILLING),
    )
    return Evidence(config, lessons.vocabulary)


def fit_evidence(
    evidence: Evidence, lessons: Lessons, *, state: TrainingState | None = None, share: Share | None = None
) -> Iterator[Epoch]:
    """Train the probe on the exemplars of the training neurons.

    The score is of the validation neurons: the negative cross-entropy of a phrase's truth of an exemplar.
    """
    examples, chosen = lessons.examples, torch.tensor(list(lessons.phrases))
    asked = chosen[evidence.config.asked]
    neurons, validation = (np.array(lessons.parts[part]) for part in ("train", "validation"))
    if state is None:
        mean, scale = lessons.feature_statistics()
        evidence.feature_mean.copy_(mean)
        evidence.feature_scale.copy_(scale)
        usual, chance = _usual_and_chance(lessons, neurons, chosen, evidence.config.region_size)
        evidence.chance.copy_(chance)
        assert evidence.usual is not None, "it was made now"
        evidence.usual.copy_(usual)

    def entropy(rows: np.ndarray) -> tuple[Tensor, int]:
        """Summed over some neurons' exemplars and the phrases that features do not tell, and over how many."""
        wanted = _truth(lessons, rows, asked).to(lessons.device)
        logits = evidence(examples.features[rows][examples.present[rows]].to(lessons.device).float())
        return nn.functional.binary_cross_entropy_with_logits(logits, wanted, reduction="sum"), wanted.numel()

    typical = float(examples.present[neurons].sum()) * len(asked) / len(neurons)

    def loss(numbers: np.ndarray, whole: np.ndarray) -> Tensor:
        return entropy(neurons[numbers])[0] / (len(whole) * typical)

    @torch.inference_mode()
    def score() -> float:
        total = count = 0.0
        for first in range(0, len(validation), NEURONS_AT_ONCE):
            some, number = entropy(validation[first : first + NEURONS_AT_ONCE])
            total, count = total + float(some), count + number
        return -total / count

    return fit(evidence, len(neurons), loss, score, lessons.config.fit, state=state, share=share)


def _truth(
    lessons: Lessons, neurons: np.ndarray, phrases: Int64[Tensor, " phrases"]
) -> Float[Tensor, "exemplars phrases"]:
    """How true some phrases are of all exemplars of some neurons, from 0 to 1."""
    assert lessons.shown is not None, "without phrases there is nothing to learn"
    truth = torch.from_numpy(np.asarray(lessons.shown.truth[neurons]))
    return truth[lessons.examples.present[neurons]][:, phrases].float() / 255


def _usual_and_chance(
    lessons: Lessons, neurons: np.ndarray, phrases: Int64[Tensor, " phrases"], region_size: int | None
) -> tuple[Float[Tensor, " phrases"], Float[Tensor, " phrases"]]:
    """How true each phrase is of the exemplars of these neurons on average, and by chance.

    Exemplars without a region of their own do not count. Whole layers look at animals, at the middle of pictures or at
    what is finely textured: what kinds of `_OF_LAYERS` say is by chance as true as in the layer of which it is truest,
    since captions are to tell its units apart; things and places a little truer. Coarse words are never surer than
    chance.
    """
    examples, layers = lessons.examples, [lessons.examples.neurons[number].layer for number in neurons]
    of_layer = np.unique(layers, return_inverse=True)[1]
    total = torch.zeros(of_layer.max(initial=0) + 1, len(phrases), dtype=torch.float64)
    count = torch.zeros(len(total), 1, dtype=torch.float64)
    for first in range(0, len(neurons), NEURONS_AT_ONCE):
        some = slice(first, first + NEURONS_AT_ONCE)
        truth, present = _truth(lessons, neurons[some], phrases).double(), examples.present[neurons[some]]
        layer = torch.from_numpy(of_layer[some])[:, None].expand_as(present)[present]
        if region_size is not None:
            kept = ~is_whole(examples.features[..., region_size][neurons[some]][present])
            truth, layer = truth[kept], layer[kept]
        total.index_add_(0, layer, truth)
        count.index_add_(0, layer, torch.ones(len(layer), 1, dtype=torch.float64))
    mean = total.sum(0) / count.sum().clamp(min=1)
    enough = count[:, 0] >= _FEWEST
    highest = torch.cat([mean[None], total[enough] / count[enough]]).amax(0)
    coarse = {" ".join(tokenize(word, lessons.config.tokenizer)) for word in _COARSE}
    every = [lessons.phrases[number] for number in phrases.tolist()]
    of_layers, leans, is_coarse = torch.tensor(
        [(kind in _OF_LAYERS, kind in _LEANING, text in coarse) for text, kind in every]
    ).T
    chance = torch.where(of_layers, highest, mean) + _LEAN * leans
    return mean.float(), chance.masked_fill(is_coarse, 1.0).clamp(max=1).float()
