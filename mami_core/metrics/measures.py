"""Captions → measures that do not depend on phrasing (`contracts.MEASURES`), beside shuffled and constant captions.

`support_measures`, `trust_measures`, `known_measures`, `agreement_measures` and `wording_measures` give rows; `Rows`
says what they have in common.
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import torch
from torch import Tensor

from mami_core import contracts
from mami_core.metrics.bleu import words
from mami_core.metrics.intervals import Interval, bootstrap
from mami_core.metrics.known import KnownScores, known_scores
from mami_core.metrics.sentences import Sentences
from mami_core.metrics.trust import another

NEAR = 10
"""A rank up to this one counts as near."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What the rows of one subject have in common."""

    subject: str
    captioner: str
    seed: int
    """Of the bootstrap."""

    def of(
        self,
        measure: str,
        source: str,
        numbers: Sequence[float] | Tensor,
        *,
        median: bool = False,
        judge: str | None = None,
        text: str | None = None,
        group: tuple[str, str] = ("all", "all"),
    ) -> Iterator[dict]:
        """The row of one number a neuron; nothing where there is none. What is not finite is left out."""
        found = torch.as_tensor(numbers, dtype=torch.float64)
        found = found[found.isfinite()]
        if len(found):
            interval = bootstrap(found, seed=self.seed, statistic="median" if median else "mean")
            yield self.row(measure, source, interval, len(found), judge=judge, text=text, group=group)

    def row(
        self,
        measure: str,
        source: str,
        interval: Interval | float,
        num_neurons: int,
        *,
        judge: str | None = None,
        text: str | None = None,
        group: tuple[str, str] = ("all", "all"),
    ) -> dict:
        """One row; a bare number has no interval."""
        bare = isinstance(interval, float | int)
        return {
            "subject": self.subject,
            "captioner": self.captioner,
            "grouping": group[0],
            "group": group[1],
            "measure": measure,
            "source": source,
            "text": text,
            "num_neurons": num_neurons,
            "value": float(interval) if bare else interval.value,  # type: ignore[union-attr, arg-type]
            "low": None if bare else interval.low,  # type: ignore[union-attr]
            "high": None if bare else interval.high,  # type: ignore[union-attr]
            "judge": judge,
        }


def support_measures(labels: pa.Table, about: Rows) -> list[dict]:
    """Of all neurons and layer by layer: of which share of their exemplars captions are true, where evidence tells."""
    rows = [row for row in labels.select(["layer", "support"]).to_pylist() if row["support"] is not None]
    return [
        made
        for group, some in _by_layer(rows)
        for made in about.of("support", "captions", [row["support"] for row in some], group=group)
    ]


def _by_layer(rows: list[dict]) -> Iterator[tuple[tuple[str, str], list[dict]]]:
    """All rows and, where there are several layers, those of each, with what `Rows` calls them."""
    yield ("all", "all"), rows
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    for layer in layers if len(layers) > 1 else ():
        yield ("layer", layer), [row for row in rows if row["layer"] == layer]


def trust_measures(labels: pa.Table, about: Rows) -> list[dict]:
    """Of all judged neurons and layer by layer: trust, what shuffled captions have, and by how much it is more."""
    rows = [row for row in labels.to_pylist() if row["trust"] is not None]
    return [made for group, some in _by_layer(rows) for made in _trust_of(about, group, some)]


def _trust_of(about: Rows, group: tuple[str, str], rows: list[dict]) -> Iterator[dict]:
    judge = ", ".join(sorted({row["scorer"] for row in rows}))
    columns = {name: [_number(row[name]) for row in rows] for name in ("trust", "trust_auprc", "trust_shuffled")}
    more = [own - other for own, other in zip(columns["trust"], columns["trust_shuffled"], strict=True)]
    yield from about.of("trust", "captions", columns["trust"], judge=judge, group=group)
    yield from about.of("trust", "shuffled", columns["trust_shuffled"], judge=judge, group=group)
    yield from about.of("trust above shuffled", "captions", more, judge=judge, group=group)
    yield from about.of("trust auprc", "captions", columns["trust_auprc"], judge=judge, group=group)


def _number(value: float | None) -> float:
    return math.nan if value is None else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """Neurons of which it is known what they look for."""

    captions: Sequence[str]
    truths: Sequence[int]
    """Of each neuron, which of `names`."""
    names: Sequence[str]
    right_words: Sequence[Sequence[str]] | None = None
    """For each of `names`, every word that is right."""


def known_measures(known: Known, sentences: Sentences, about: Rows, *, prefix: str = "known") -> list[dict]:
    """Meaning, rank and naming of the true name: by the captions, by another neuron's, and by the commonest one."""
    constant = commonest(known.captions)
    cycle = another(range(len(known.captions)))
    texts: dict[tuple[str, str | None], Sequence[str]] = {
        ("captions", None): known.captions,
        ("shuffled", None): [known.captions[cycle.get(place, place)] for place in range(len(known.captions))],
        ("constant", constant): [constant] * len(known.captions),
    }
    found = {
        source: known_scores(said, known.truths, known.names, sentences, right_words=known.right_words)
        for source, said in texts.items()
    }
    return [
        row
        for (source, text), scores in found.items()
        for row in _known_of(scores, about, prefix, source, text, sentences.name, len(known.names))
    ]


def _known_of(
    scores: KnownScores, about: Rows, prefix: str, source: str, text: str | None, judge: str, num_names: int
) -> Iterator[dict]:
    near = (scores.rank <= NEAR).double()
    yield from about.of(f"{prefix}: cosine", source, scores.cosine, judge=judge, text=text)
    yield from about.of(
        f"{prefix}: median rank of {num_names:,}", source, scores.rank, median=True, judge=judge, text=text
    )
    yield from about.of(f"{prefix}: rank up to {NEAR}", source, near, judge=judge, text=text)
    if scores.named is not None:
        yield from about.of(f"{prefix}: named", source, scores.named.double(), text=text)


def agreement_measures(one: Sequence[str], other: Sequence[str], sentences: Sentences, about: Rows) -> list[dict]:
    """How near in meaning the captions of two halves of the same neurons' exemplars are: the mean cosine."""
    first, second = sentences.embed(one), sentences.embed(other)
    cycle, constant = another(range(len(other))), commonest(one)
    shuffled = second[[cycle.get(place, place) for place in range(len(other))]]
    same = [float(a == b) for a, b in zip(one, other, strict=True)]
    own, others = (first * second).sum(1), (first * shuffled).sum(1)
    always = (sentences.embed([constant]) * second).sum(1)
    return [
        *about.of("agreement: cosine", "captions", own, judge=sentences.name),
        *about.of("agreement: cosine", "shuffled", others, judge=sentences.name),
        *about.of("agreement: cosine", "constant", always, judge=sentences.name, text=constant),
        *about.of("agreement above shuffled", "captions", own - others, judge=sentences.name),
        *about.of("agreement: same words", "captions", same),
    ]


def wording_measures(labels: pa.Table, about: Rows) -> list[dict]:
    """Variety and fluency: the captions alone, whatever they are of."""
    alive = [row for row in labels.select(["caption", "log_p_language"]).to_pylist() if row["caption"] is not None]
    captions = [row["caption"] for row in alive]
    if not captions:
        return []
    said = [words(caption) for caption in captions]
    common = commonest(captions)
    pairs = [pair for one in said for pair in itertools.pairwise(one)]
    # The language model's log p has the stop word in it.
    surprise = [-_number(row["log_p_language"]) / (len(one) + 1) for row, one in zip(alive, said, strict=True)]
    mean = next(iter(about.of("", "", surprise)), None)
    perplexity = Interval(*(math.exp(mean[name]) for name in ("value", "low", "high"))) if mean else None
    return [
        about.row("variety: distinct captions", "captions", len(set(captions)) / len(captions), len(captions)),
        *about.of("variety: commonest caption", "captions", [float(one == common) for one in captions], text=common),
        about.row("variety: distinct-2", "captions", len(set(pairs)) / max(1, len(pairs)), len(captions)),
        *about.of("length in words", "captions", [float(len(one)) for one in said]),
        *([about.row("fluency: perplexity", "captions", perplexity, len(captions))] if perplexity else []),
        *about.of("fluency: doubled word", "captions", [float(_doubles(one)) for one in said]),
        *about.of("fluency: repeated word", "captions", [float(len(set(one)) < len(one)) for one in said]),
    ]


def _doubles(said: Sequence[str]) -> bool:
    return any(first == second for first, second in itertools.pairwise(said))


def commonest(captions: Sequence[str]) -> str:
    """The caption of most neurons; of equally common ones the first by the alphabet."""
    return min(Counter(captions).items(), key=lambda one: (-one[1], one[0]))[0]


def measures_table(rows: Sequence[dict]) -> pa.Table:
    """The rows as `contracts.MEASURES`, those of one measure of one group below each other."""

    def measure(row: dict) -> tuple:
        return row["subject"], row["measure"], row["group"]

    first: dict[tuple, int] = {}
    for place, row in enumerate(rows):
        first.setdefault(measure(row), place)
    return contracts.from_rows(sorted(rows, key=lambda row: first[measure(row)]), contracts.MEASURES)


def measures_text(table: pa.Table) -> str:
    """What the table says, for people: subject by subject a measure a line, its sources below each other."""
    rows = table.to_pylist()
    names = [row["measure"] + ("" if row["grouping"] == "all" else f" ({row['group']})") for row in rows]
    width = max(map(len, [*names, "measure"])) + 2
    lines = [f"{'measure':<{width}}{'captions of':<22}{'neurons':>8}{'value':>10}   95 % interval"]
    subject = None
    for name, row in zip(names, rows, strict=True):
        if row["subject"] != subject:
            subject = row["subject"]
            lines += ["", f"{subject}, captioner {row['captioner']}"]
        interval = "" if row["low"] is None else f"{row['low']:8.3f} … {row['high']:.3f}"
        text = f'   "{row["text"]}"' if row["text"] else ""
        number = f"{row['num_neurons']:>8,}{row['value']:>10.3f}"
        lines.append(f"{name:<{width}}{row['source']:<22}{number}{interval}{text}")
    return "\n".join(lines) + "\n"
