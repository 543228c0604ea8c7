"""What a training run is about to do, in words: the plan that --dry-run shows."""

from jobs.engine.foretold import Step, duration
from jobs.engine.foretold import planned as plan_of
from jobs.training.annotated import Source, features_of_run
from jobs.training.features import feature_items
from mami_core.learning.targets import training_split
from mami_core.learning.training import LearningConfig

_ENCODED_S, _LEARNED_S = 10.0, 60.0
"""Images and descriptions a second of one CPU core: docs/performance.md has the measurements."""


def planned(source: Source, learning: LearningConfig, num_features: int, *, into: str) -> str:
    """Work items, epochs, bytes and roughly how long it takes; nothing is started.

    Raises:
        DescriptionsError: the neurons cannot be had, or are too few to split.
    """
    annotated = source.open()
    training = training_split(annotated.neurons, learning.split)["train"]
    described = sum(len(annotated.descriptions[row]) for row in training)
    vectors = 2.0 * num_features * int((annotated.images >= 0).sum())
    if source.descriptions is None:
        items, seconds = len(feature_items(annotated.num_images)), annotated.num_images / _ENCODED_S
    else:
        items, seconds = len(features_of_run(source.name)[1]), 0.0
    seconds_an_epoch, epochs = described / _LEARNED_S, learning.fit.max_epochs
    steps = [
        Step(name="features", items=items, bytes_read=None, bytes_written=vectors, requests=2 * items, seconds=seconds),
        Step(name="language model", bytes_written=None, seconds=None),
        Step(
            name=f"captioner, {epochs} epochs",
            items=epochs,
            bytes_read=vectors,
            bytes_written=None,
            seconds=epochs * seconds_an_epoch,
        ),
    ]
    line = f"Training on {described:,} descriptions of {len(training):,} of {len(annotated.neurons):,} neurons"
    note = f"An epoch takes about {duration(seconds_an_epoch)}; training stops when it no longer helps."
    return plan_of(line, steps, into=into, notes=[note])
