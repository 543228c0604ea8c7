"""What a training run is about to do, in words: the plan that --dry-run shows."""

from collections.abc import Sequence

import torch
from torch import nn

from jobs.engine.foretold import Step, duration
from jobs.engine.foretold import planned as plan_of
from jobs.training.annotated import Source, features_of_run
from jobs.training.features import feature_items
from mami_core.captions.captioner import Captioner, CaptionerConfig
from mami_core.captions.language_model import LanguageModel, LanguageModelConfig
from mami_core.captions.vocabulary import PAD, Vocabulary
from mami_core.learning.targets import targets, training_split
from mami_core.learning.training import LearningConfig

_ENCODED_S, _OPERATIONS_S = 10.0, 40e9
"""Images and floating-point operations a second of one CPU core: docs/performance.md has the measurements."""
_PROBED_S = 1e-4
"""What an exemplar takes the probe, an epoch: 57 s for 570,000 exemplars and 1,714 phrases on one core."""
_PER_WEIGHT = 6
"""Operations that learning a word takes for each weight: a product and a sum forward, and twice as many backward."""


def planned(
    source: Source, learning: LearningConfig, captioner: CaptionerConfig, language: LanguageModelConfig, *, into: str
) -> str:
    """Work items, epochs, bytes and roughly how long it takes; nothing is started.

    Raises:
        DescriptionsError: the neurons cannot be had, or are too few to split.
    """
    annotated = source.open()
    training = training_split(annotated.neurons, learning.split)["train"]
    texts = [text for row in training for text in targets(annotated.descriptions[row], learning.targets)]
    vectors = 2.0 * captioner.num_features * int((annotated.images >= 0).sum())
    if source.descriptions is None:
        items, seconds = len(feature_items(annotated.num_images)), annotated.num_images / _ENCODED_S
    else:
        items, seconds = len(features_of_run(source.name)[1]), 0.0
    of_language, of_captioner = _seconds_an_epoch(texts, learning, captioner, language)
    epochs = learning.fit.max_epochs
    steps = [
        Step(name="features", items=items, bytes_read=None, bytes_written=vectors, requests=2 * items, seconds=seconds),
        Step(name="language model", items=epochs, bytes_written=None, seconds=epochs * of_language),
        Step(
            name=f"captioner, {epochs} epochs",
            items=epochs,
            bytes_read=vectors,
            bytes_written=None,
            seconds=epochs * of_captioner,
        ),
    ]
    if annotated.read_shown is not None:
        seconds = epochs * _PROBED_S * int((annotated.images >= 0).sum())
        steps.append(Step(name=f"evidence, {epochs} epochs", items=epochs, bytes_written=None, seconds=seconds))
    line = f"Training on {len(texts):,} descriptions of {len(training):,} of {len(annotated.neurons):,} neurons"
    note = f"An epoch takes about {duration(of_captioner)}; training stops when it no longer helps."
    return plan_of(line, steps, into=into, notes=[note])


def _seconds_an_epoch(
    texts: Sequence[str], learning: LearningConfig, captioner: CaptionerConfig, language: LanguageModelConfig
) -> tuple[float, float]:
    """Of one core: the language model's and the captioner's, by their weights and the words to learn."""
    vocabulary = Vocabulary.build(texts, min_count=learning.min_count, tokenizer=learning.tokenizer)
    num_words = sum(word != PAD for text in texts for word in vocabulary.encode(text, learning.max_length))
    with torch.device("meta"):
        networks: list[nn.Module] = [LanguageModel(language, vocabulary), Captioner(captioner, vocabulary)]
    weights = [sum(weight.numel() for weight in network.parameters()) for network in networks]
    of_language, of_captioner = (_PER_WEIGHT * num_words * count / _OPERATIONS_S for count in weights)
    return of_language, of_captioner
