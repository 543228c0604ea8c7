"""Captions beside people's descriptions → the tables of an evaluation, and what they say."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
import torch

from jobs.engine.progress import Progress
from jobs.training.described import Captioned
from mami_core.metrics.baselines import DescribedNeuron
from mami_core.metrics.bertscore import BertScore
from mami_core.metrics.measures import measures_table, measures_text
from mami_core.metrics.summary import summary
from mami_core.metrics.table import Compared, compare, scores_table

SCORES, MEASURES = "scores.parquet", "measures.parquet"
_EXAMPLES = 5
"""So many neurons are shown with their captions below the scores, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What captions are held against each other with."""

    bertscore: BertScore | None
    """None where it is left out."""
    device: str
    seed: int
    """Decides which neuron's caption a neuron gets in the shuffled baseline, and the intervals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What an evaluation found."""

    tables: dict[str, pa.Table]
    """By file name: the measures, and the scores where there are descriptions."""
    text: str


class Evaluation(Protocol):
    """What is to be scored: all of it is read, and nothing computed."""

    @property
    def identity(self) -> dict[str, Any]:
        """What the scores follow from, as JSON values."""
        ...

    def found(self, means: Means) -> Found:
        """The tables, and what they say."""
        ...


def compared_of(captioned: Captioned, means: Means) -> Compared:
    """The captions and their baselines, by every metric; says how far it is."""
    with Progress("BERTScore", total=1, things="pairs") if means.bertscore else nullcontext() as bar:

        def tell(done: int, total: int) -> None:
            if bar is not None:
                bar.done, bar.total = done, total

        return compare(
            captioned.neurons,
            training=captioned.training,
            generator=torch.Generator().manual_seed(means.seed),
            bertscore=means.bertscore,
            progress=tell,
        )


def found_of(rows: Sequence[dict], captioned: Captioned | None = None, compared: Compared | None = None) -> Found:
    """The measures and, of captions that are beside descriptions, the scores."""
    measures = measures_table(rows)
    if captioned is None or compared is None:
        return Found(tables={MEASURES: measures}, text=measures_text(measures))
    scores = scores_table(compared, subject=captioned.subject, captioner=captioned.captioner)
    lines = [summary(scores), *captioned.notes, "", *_examples(captioned.neurons), "", measures_text(measures)]
    return Found(tables={SCORES: scores, MEASURES: measures}, text="\n".join(lines))


def _examples(neurons: Sequence[DescribedNeuron]) -> list[str]:
    """Some captions as they are, taken evenly from all."""
    some = neurons[:: -(-len(neurons) // _EXAMPLES)]
    return [f"{one.layer}/{one.unit}: {one.caption}  |  people: {'; '.join(one.descriptions)}" for one in some]
