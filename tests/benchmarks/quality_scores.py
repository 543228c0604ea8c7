"""What `quality_train.py` wrote → scores of every way: at the point that its validation neurons choose, by group."""

import functools
import gzip
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float

from mami_core.learning.targets import targets
from mami_core.metrics.bertscore import BertScore, best
from mami_core.metrics.bleu import BleuCounts, merged, words
from mami_core.metrics.rouge import rouge_l
from tests.benchmarks.neurons_file import NeuronsFile
from tests.benchmarks.quality_train import COMPOUND, GRID

Point = tuple[float, float, float | None]
"""λ, length penalty, window."""

_RESAMPLES = 2000


# The same few captions win at most points of the grid.
_counts, _rouge = functools.cache(BleuCounts.of), functools.cache(rouge_l)


@dataclass(frozen=True)
class Taught:
    """The captioners of one way, one a seed."""

    group: str
    name: str
    runs: Sequence[dict]
    descriptions: Mapping[int, tuple[str, ...]]
    """What each neuron's captions are held against."""

    def said(self, run: dict, part: str, point: Point) -> dict[int, str]:
        """Every neuron's caption at a point of the grid."""
        found = run[part]
        chosen = found["choice"][GRID.index(point)]
        return {row: texts[number] for row, texts, number in zip(found["rows"], found["texts"], chosen, strict=True)}

    def on_validation(self, point: Point, part: str = "validation") -> tuple[float, float]:
        """ROUGE-L and BLEU of the validation neurons at a point, mean over seeds."""
        each = [self._scored(self.said(run, part, point)) for run in self.runs]
        rouge, bleu = (statistics.fmean(column) for column in zip(*each, strict=True))
        return rouge, bleu

    def _scored(self, said: Mapping[int, str]) -> tuple[float, float]:
        both = [
            (_counts(text, self.descriptions[row]), _rouge(text, self.descriptions[row])) for row, text in said.items()
        ]
        return statistics.fmean(rouge for _, rouge in both), merged(counts for counts, _ in both).score()

    @cached_property
    def point(self) -> Point:
        """What the validation neurons choose, by ROUGE-L."""
        return max(GRID, key=lambda point: self.on_validation(point)[0])

    @cached_property
    def captions(self) -> list[dict[int, str]]:
        """The test neurons' captions there, a seed."""
        return [self.said(run, "test", self.point) for run in self.runs]

    def bleu(self, rows: Sequence[int]) -> list[float]:
        """Corpus BLEU of some neurons, a seed."""
        return [merged(_counts(said[row], self.descriptions[row]) for row in rows).score() for said in self.captions]

    def rouge(self, rows: Sequence[int]) -> Float[np.ndarray, "seeds neurons"]:
        """ROUGE-L of every neuron."""
        return np.array([[_rouge(said[row], self.descriptions[row]) for row in rows] for said in self.captions])

    def log_p(self, rows: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Sums of log p over the words of every neuron's descriptions [seeds, neurons], and the numbers of words."""
        found = [{row: (total, count) for row, total, count in run["log_p"]} for run in self.runs]
        totals = np.array([[of_seed[row][0] for row in rows] for of_seed in found])
        return totals, np.array([found[0][row][1] for row in rows])

    def bertscore(self, rows: Sequence[int], scorer: BertScore) -> list[float]:
        """F1 against the closest description, mean over neurons, a seed."""
        pairs = [(said[row], text) for said in self.captions for row in rows for text in self.descriptions[row]]
        distinct = list(dict.fromkeys(pairs))
        known = dict(zip(distinct, scorer.score(distinct), strict=True))
        return [
            statistics.fmean(best([known[said[row], text] for text in self.descriptions[row]]).f1 for row in rows)
            for said in self.captions
        ]


def read_found(path: Path, neurons: NeuronsFile) -> list[Taught]:
    """All ways, in the order of their first captioner."""
    found = json.loads(gzip.decompress(path.read_bytes()))["found"]
    single = dict(enumerate(neurons.examples.descriptions))
    compound = {row: targets(texts, COMPOUND) for row, texts in single.items()}
    names = dict.fromkeys((one["group"], one["name"]) for one in found)
    return [
        Taught(
            group,
            name,
            [one for one in found if (one["group"], one["name"]) == (group, name)],
            compound if group == "compound" else single,
        )
        for group, name in names
    ]


def mean_words(descriptions: Sequence[str]) -> float:
    """Of a neuron's descriptions."""
    return statistics.fmean(len(words(text)) for text in descriptions)


def difference(one: Taught, other: Taught, rows: Sequence[int]) -> dict[str, tuple[float, float, float]]:
    """How much better `one` is, with its 95 % interval over resampled neurons: by log p a word, and by ROUGE-L."""
    seeds = min(len(one.runs), len(other.runs))
    (mine, count), (theirs, _) = one.log_p(rows), other.log_p(rows)
    gain = (mine[:seeds] - theirs[:seeds]).mean(0)
    rouge = (one.rouge(rows)[:seeds] - other.rouge(rows)[:seeds]).mean(0)
    return {
        "log p": _interval(lambda some: gain[some].sum() / count[some].sum(), len(rows)),
        "ROUGE-L": _interval(lambda some: rouge[some].mean(), len(rows)),
    }


def _interval(statistic: Callable[[np.ndarray], float], num_neurons: int) -> tuple[float, float, float]:
    rng = np.random.default_rng(0)
    drawn = [statistic(rng.integers(0, num_neurons, num_neurons)) for _ in range(_RESAMPLES)]
    return float(statistic(np.arange(num_neurons))), *np.quantile(drawn, [0.025, 0.975]).tolist()
