"""What the captions are worth: MAMI beside MILAN's attention and the baselines, on neurons that training never saw.

python -m tests.benchmarks.quality [--seeds 4] [--neurons 2400]

Both are trained on the same drawn neurons with the same language model, once a seed; a seed decides first weights, the
order of the targets and dropout, not who is in the test part. The length penalty is looked at on the validation part.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context

import pyarrow as pa
import torch

from mami_core.captions.attention import ATTENTIONS, AttentionName
from mami_core.captions.captioner import Captioner, CaptionerConfig
from mami_core.captions.decode import DecodeConfig, caption
from mami_core.captions.language_model import LanguageModel, LanguageModelConfig
from mami_core.features import EncoderConfig, load_encoder
from mami_core.learning.annotated_features import encode_annotated, examples_of
from mami_core.learning.fit import FitConfig
from mami_core.learning.generated import UNSEEN, GeneratedConfig, generate
from mami_core.learning.targets import SplitConfig
from mami_core.learning.training import Examples, LearningConfig, Lessons, fit_captioner, fit_language_model
from mami_core.metrics.baselines import DescribedNeuron
from mami_core.metrics.bertscore import BertScore, BertScoreConfig, load_bertscore
from mami_core.metrics.bleu import bleu, words
from mami_core.metrics.table import score_neurons

WAYS: Mapping[str, tuple[AttentionName, ...]] = {"MAMI": ATTENTIONS, "Bahdanau alone": ("bahdanau",)}
SIZES = {"hidden": 256, "embedding": 96}
PENALTIES = (0.0, 0.5, 0.7, 1.0)
DECODE = DecodeConfig(length_penalty=0.7, max_length=31)
"""As jobs.label captions."""
LONG = 9

Scores = dict[tuple[str, str], tuple[float, float]]
"""By group and source: BLEU and BERTScore's F1."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one seed gave."""

    validation: dict[tuple[str, float], float]
    """BLEU by way and length penalty."""
    scores: dict[str, Scores]
    """Of the test neurons, by way."""
    sizes: dict[str, int]
    """Neurons by group."""
    seconds: dict[str, float]
    """CPU time of training, by way."""


def learn(seed: int, num_neurons: int, features: pa.Table) -> Outcome:
    """Train both ways with one seed and score them."""
    torch.set_num_threads(1)
    examples = examples_of(generate(GeneratedConfig(num_neurons=num_neurons)), features)
    lessons = Lessons(examples, LearningConfig(split=SplitConfig(test_layers=(UNSEEN,)), fit=FitConfig(seed=seed)))
    torch.manual_seed(seed)
    language_model = LanguageModel(LanguageModelConfig(**SIZES, layers=1), lessons.vocabulary)
    for _ in fit_language_model(language_model, lessons):
        pass
    bertscore = load_bertscore(BertScoreConfig())
    outcome = Outcome({}, {}, {name: len(rows) for name, rows in groups(lessons).items()}, {})
    for way, attentions in WAYS.items():
        torch.manual_seed(seed)
        shape = CaptionerConfig(
            num_features=examples.features.shape[-1], attentions=attentions, attention_size=128, **SIZES
        )
        captioner, start = Captioner(shape, lessons.vocabulary), time.process_time()
        for epoch in fit_captioner(captioner, language_model, lessons):
            print(f"seed {seed}, {way}, epoch {epoch.number}: {epoch.score:.1f}", file=sys.stderr, flush=True)
        outcome.seconds[way] = time.process_time() - start
        rows = lessons.parts["validation"]
        for penalty in PENALTIES:
            said = captions(captioner, language_model, examples, rows, replace(DECODE, length_penalty=penalty))
            outcome.validation[way, penalty] = bleu(said, [examples.descriptions[row] for row in rows])
        outcome.scores[way] = judged(captioner, language_model, lessons, bertscore)
    return outcome


def groups(lessons: Lessons) -> dict[str, list[int]]:
    """The test neurons: all, by the length of their descriptions, by whether training saw their kind."""
    examples, rows = lessons.examples, lessons.parts["test"]
    long = {row for row in rows if statistics.fmean(len(words(text)) for text in examples.descriptions[row]) >= LONG}
    unseen = {row for row in rows if examples.neurons[row].layer == UNSEEN}
    return {
        "all": rows,
        f"long descriptions ({LONG} words or more)": [row for row in rows if row in long],
        "shorter": [row for row in rows if row not in long],
        "colours and shapes that training combined": [row for row in rows if row not in unseen],
        "combined nowhere in training": [row for row in rows if row in unseen],
    }


def captions(
    captioner: Captioner, language_model: LanguageModel, examples: Examples, rows: Sequence[int], config: DecodeConfig
) -> list[str]:
    """The best caption of each neuron."""
    chosen = list(rows)
    found = caption(captioner, language_model, examples.features[chosen], examples.present[chosen], config)
    return [beams[0].caption for beams in found]


def judged(captioner: Captioner, language_model: LanguageModel, lessons: Lessons, bertscore: BertScore) -> Scores:
    """The captions of the test neurons and their baselines, group by group."""
    examples, rows = lessons.examples, lessons.parts["test"]
    said = dict(zip(rows, captions(captioner, language_model, examples, rows, DECODE), strict=True))
    training = [examples.descriptions[row] for row in lessons.parts["train"]]
    scores: Scores = {}
    for group, members in groups(lessons).items():
        neurons = [
            DescribedNeuron(
                layer=examples.neurons[row].layer,
                unit=examples.neurons[row].unit,
                caption=said[row],
                descriptions=examples.descriptions[row],
            )
            for row in members
        ]
        generator = torch.Generator().manual_seed(0)
        table = score_neurons(neurons, training=training, generator=generator, bertscore=bertscore)
        for row in table.to_pylist():
            if row["grouping"] == "all":  # of two constants, each metric's better one
                before = scores.get((group, row["source"]), (0.0, 0.0))
                scores[group, row["source"]] = (max(before[0], row["bleu"]), max(before[1], row["bertscore_f1"]))
    return scores


def report(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Two tables in Markdown."""
    yield f"Validation neurons, BLEU by length penalty, mean of {len(outcomes)} seeds:\n"
    yield "| | " + " | ".join(f"{penalty:g}" for penalty in PENALTIES) + " |"
    yield "| --- |" + " ---: |" * len(PENALTIES)
    for way in WAYS:
        by_penalty = (spread([one.validation[way, penalty] for one in outcomes], 1) for penalty in PENALTIES)
        yield f"| {way} | " + " | ".join(by_penalty) + " |"
    yield f"\nTest neurons, BLEU / BERTScore F1, mean ± standard deviation of {len(outcomes)} seeds:\n"
    columns = {way: (way, "captions") for way in WAYS}
    columns |= {f"{way}, shuffled": (way, "shuffled") for way in WAYS}
    columns |= {"best constant": ("MAMI", "constant"), "people": ("MAMI", "people")}
    yield "| neurons | number | " + " | ".join(columns) + " |"
    yield "| --- |" + " ---: |" * (len(columns) + 1)
    for group, size in outcomes[0].sizes.items():
        cells = []
        for way, source in columns.values():
            both = zip(*(one.scores[way][group, source] for one in outcomes), strict=True)
            cells.append(" / ".join(spread(values, places) for values, places in zip(both, (1, 3), strict=True)))
        yield f"| {group} | {size:,} | " + " | ".join(cells) + " |"
    for way in WAYS:
        yield f"\nTraining {way}: {statistics.fmean(one.seconds[way] for one in outcomes):,.0f} s of CPU time a seed."


def spread(values: Sequence[float], places: int) -> str:
    """Mean, and standard deviation where values differ."""
    mean = f"{statistics.fmean(values):.{places}f}"
    alike = len({f"{value:.{places}f}" for value in values}) == 1
    return mean if alike else f"{mean} ± {statistics.stdev(values):.{places}f}"


def main() -> None:
    """Encode once, learn every seed in a process of its own, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--neurons", type=int, default=2400)
    chosen = parser.parse_args()
    annotated = generate(GeneratedConfig(num_neurons=chosen.neurons))
    features = encode_annotated(
        annotated, load_encoder(EncoderConfig(name="efficientnet_lite2")), range(annotated.num_images)
    )
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        count = range(chosen.seeds)
        outcomes = list(pool.map(learn, count, [chosen.neurons] * len(count), [features] * len(count)))
    print("\n".join(report(outcomes)))


if __name__ == "__main__":
    main()
