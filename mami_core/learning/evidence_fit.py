"""Annotated neurons of whose exemplars it is known what they show → the probe that holds captions against exemplars."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from mami_core.captions.evidence import Evidence, EvidenceConfig
from mami_core.features import EncoderConfig, numbers_of_looks
from mami_core.learning.dissected.truth import told_by_pixels
from mami_core.learning.fit import Epoch, Share, TrainingState, fit
from mami_core.learning.training import NEURONS_AT_ONCE, Lessons


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
    config = EvidenceConfig(
        num_features=num_features,
        phrases=phrases,
        dropout=dropout,
        region_size=num_features - 1 if encoder.place else None,
        told_by=told_by_pixels(phrases, numbers_of_looks(encoder, num_features)),
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
        evidence.chance.copy_(_chance(lessons, neurons, chosen))

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


def _chance(lessons: Lessons, neurons: np.ndarray, phrases: Int64[Tensor, " phrases"]) -> Float[Tensor, " phrases"]:
    """How true each phrase is of the exemplars of these neurons on average."""
    total, count = torch.zeros(len(phrases), dtype=torch.float64), 0
    for first in range(0, len(neurons), NEURONS_AT_ONCE):
        truth = _truth(lessons, neurons[first : first + NEURONS_AT_ONCE], phrases)
        total, count = total + truth.double().sum(0), count + len(truth)
    return (total / max(1, count)).float()
