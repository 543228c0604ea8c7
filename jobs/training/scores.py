"""A trained captioner → its scores on the neurons that training never saw, beside the baselines."""

import torch

from jobs.storage import Storage, redact
from mami_core import contracts
from mami_core.captions.decode import DecodeConfig, caption
from mami_core.learning import checkpoint
from mami_core.learning.training import Examples, Lessons
from mami_core.metrics.baselines import DescribedNeuron
from mami_core.metrics.summary import summary
from mami_core.metrics.table import score_neurons

SCORES, SUMMARY = "scores.parquet", "summary.txt"


def score(storage: Storage, lessons: Lessons) -> None:
    """Captions of the neurons that training never saw, beside the baselines."""
    trained = checkpoint.load({name: storage.read(name) for name in checkpoint.FILES}, where=redact(storage.url))
    examples = lessons.examples
    rows = lessons.parts["test"] or lessons.parts["validation"]
    config = (trained.decode or DecodeConfig()).changed(max_length=lessons.config.max_length)  # as jobs.label captions
    found = caption(trained.captioner, trained.language_model, examples.features[rows], examples.present[rows], config)
    scores = score_neurons(
        [_described(examples, row, beams[0].caption) for row, beams in zip(rows, found, strict=True)],
        training=[examples.descriptions[row] for row in lessons.parts["train"]],
        generator=torch.Generator().manual_seed(0),
        captioner=trained.id,
    )
    storage.write(SCORES, contracts.to_parquet(scores, contracts.SCORES))
    storage.write(SUMMARY, redact(summary(scores)).encode())


def _described(examples: Examples, row: int, text: str) -> DescribedNeuron:
    neuron = examples.neurons[row]
    return DescribedNeuron(layer=neuron.layer, unit=neuron.unit, caption=text, descriptions=examples.descriptions[row])
