"""Neurons with captions and descriptions → the scores table, every metric beside its baselines, and its summary."""

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import torch

from mami_core import contracts
from mami_core.errors import DescriptionsError
from mami_core.metrics import baselines
from mami_core.metrics.baselines import Comparison, DescribedNeuron
from mami_core.metrics.bertscore import BertScore, BertScores, best
from mami_core.metrics.bleu import BleuCounts, merged, words
from mami_core.metrics.published import has_milan_words, milan_counts, sacrebleu
from mami_core.metrics.rouge import rouge_l

Progress = Callable[[int, int], None]
"""Told how many texts BERTScore has compared, and of how many."""

LENGTHS = ((1, 4), (5, 8), (9, 12), (13, 20))
"""Groups of neurons by the mean number of words of their descriptions, rounded; longer ones are the last group."""

_PAIRS_AT_ONCE = 4096
_CONSTANT_NEURONS = 200
"""On how many training neurons the constants are compared by BERTScore."""


def _silent(_done: int, _total: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A comparison with its outcome."""

    comparison: Comparison
    bleu: BleuCounts
    rouge_l: float
    bleu_milan: BleuCounts | None
    """Over MILAN's words, where spaCy is there to cut them."""
    bertscore: BertScores | None

    @staticmethod
    def of(comparison: Comparison, scores: "_PairScores | None") -> "Judged":
        """By every metric; `scores` has BERTScore's pairs."""
        text, descriptions = comparison.caption, comparison.descriptions
        closest = best([scores[text, description] for description in descriptions]) if scores is not None else None
        by_milan = milan_counts(text, descriptions) if has_milan_words() else None
        counts = BleuCounts.of(text, descriptions)
        return Judged(comparison, counts, rouge_l(text, descriptions), by_milan, closest)


@dataclass(frozen=True, slots=True)
class Compared:
    """Neurons with what every source says of them, held against their descriptions."""

    neurons: Sequence[DescribedNeuron]
    judged: dict[tuple[str, str | None], list[Judged]]
    """By a source's name and, for a constant, its text."""
    bertscore_model: str | None


def compare(
    neurons: Sequence[DescribedNeuron],
    *,
    training: Sequence[Sequence[str]],
    generator: torch.Generator,
    bertscore: BertScore | None = None,
    progress: Progress = _silent,
) -> Compared:
    """The captions and every baseline, each text beside the descriptions of its neuron.

    `training` holds the descriptions, neuron by neuron, that the constant captions are chosen from: the one of the best
    BLEU on them and, with `bertscore`, the one of the best F1. `generator` decides whose caption a neuron gets in the
    shuffled baseline.

    Raises:
        DescriptionsError: if there is no neuron to score, or no description to choose a constant from.
    """
    if not neurons:
        raise DescriptionsError("expected at least one neuron with a caption and descriptions, got none.")
    sources = _sources(neurons, strongest_constants(training, bertscore), generator)
    scores = _pair_scores(sources, bertscore, progress) if bertscore else None
    judged = {source: [Judged.of(one, scores) for one in comparisons] for source, comparisons in sources.items()}
    return Compared(neurons, judged, bertscore.name if bertscore else None)


def scores_table(compared: Compared, *, subject: str = "", captioner: str = "") -> pa.Table:
    """The scores (`contracts.SCORES`) of the captions and of every baseline: overall, by length and by layer."""
    about = {"subject": subject, "captioner": captioner, "bertscore_model": compared.bertscore_model}
    groups = _groups(compared.neurons)
    rows = [about | row for group, members in groups for row in _rows(group, members, compared.judged)]
    return contracts.from_rows(rows, contracts.SCORES)


def score_neurons(
    neurons: Sequence[DescribedNeuron],
    *,
    training: Sequence[Sequence[str]],
    generator: torch.Generator,
    bertscore: BertScore | None = None,
    subject: str = "",
    captioner: str = "",
    progress: Progress = _silent,
) -> pa.Table:
    """`compare`, and its scores."""
    compared = compare(neurons, training=training, generator=generator, bertscore=bertscore, progress=progress)
    return scores_table(compared, subject=subject, captioner=captioner)


def strongest_constants(training: Sequence[Sequence[str]], bertscore: BertScore | None) -> list[str]:
    """The description that, said of every training neuron, has the best BLEU, and the one of the best BERTScore F1.

    The second is sought among the constants of the best BLEU and the most common descriptions, on training neurons
    taken evenly from the whole; it may be the first again, and is not repeated.
    """
    candidates = baselines.constant_candidates(training)
    if bertscore is None:
        return candidates[:1]
    neurons = training[:: -(-len(training) // _CONSTANT_NEURONS)]
    pairs = [(caption, text) for caption in candidates for descriptions in neurons for text in descriptions]
    scores = iter(bertscore.score(pairs))
    f1 = [sum(best([next(scores) for _ in texts]).f1 for texts in neurons) for _ in candidates]
    return list(dict.fromkeys([candidates[0], candidates[f1.index(max(f1))]]))


_Source = tuple[str, str | None]
"""A source's name and, for a constant, its text."""


def _sources(
    neurons: Sequence[DescribedNeuron], constants: Sequence[str], generator: torch.Generator
) -> dict[_Source, list[Comparison]]:
    return {
        ("captions", None): baselines.own(neurons),
        **{("constant", text): baselines.constant(neurons, text) for text in constants},
        ("shuffled", None): baselines.shuffled(neurons, generator),
        ("people", None): baselines.people(neurons),
        ("captions like people", None): baselines.own_like_people(neurons),
    }


_PairScores = dict[tuple[str, str], BertScores]


def _pair_scores(sources: dict[_Source, list[Comparison]], bertscore: BertScore, progress: Progress) -> _PairScores:
    """BERTScore of every distinct (text, description); neighbours belong together, so that texts are encoded once."""
    by_neuron = sorted((one for comparisons in sources.values() for one in comparisons), key=lambda one: one.neuron)
    pairs = list(dict.fromkeys((one.caption, text) for one in by_neuron for text in one.descriptions))
    scores: _PairScores = {}
    for start in range(0, len(pairs), _PAIRS_AT_ONCE):
        some = pairs[start : start + _PAIRS_AT_ONCE]
        scores.update(zip(some, bertscore.score(some), strict=True))
        progress(len(scores), len(pairs))
    return scores


def _groups(neurons: Sequence[DescribedNeuron]) -> Iterator[tuple[tuple[str, str], set[int]]]:
    """Every group's grouping and name with the neurons in it: all, by length, and by layer if there are several."""
    yield ("all", "all"), set(range(len(neurons)))
    lengths = [length_group(neuron.descriptions) for neuron in neurons]
    for length in range(len(LENGTHS) + 1):
        if length in lengths:
            yield ("length", _length_name(length)), {i for i, one in enumerate(lengths) if one == length}
    layers = dict.fromkeys(neuron.layer for neuron in neurons)
    for layer in layers if len(layers) > 1 else ():
        yield ("layer", layer), {i for i, neuron in enumerate(neurons) if neuron.layer == layer}


def length_group(descriptions: Sequence[str]) -> int:
    """Which of `LENGTHS` the mean number of words falls into; `len(LENGTHS)` if it is longer than all."""
    mean = round(statistics.fmean(len(words(text)) for text in descriptions))
    return next((i for i, (_, longest) in enumerate(LENGTHS) if mean <= longest), len(LENGTHS))


def _length_name(group: int) -> str:
    if group == len(LENGTHS):
        return f"over {LENGTHS[-1][1]} words"
    return "{} to {} words".format(*LENGTHS[group])


def _rows(group: tuple[str, str], members: set[int], judged: dict[_Source, list[Judged]]) -> Iterator[dict]:
    """One row for every source that says anything of a group's neurons."""
    for (source, constant), texts in judged.items():
        if inside := [one for one in texts if one.comparison.neuron in members]:
            yield {
                "grouping": group[0],
                "group": group[1],
                "source": source,
                "text": constant,
                "num_neurons": len({one.comparison.neuron for one in inside}),
                "num_texts": len(inside),
                "num_distinct": len({one.comparison.caption for one in inside}),
                "bleu": merged(one.bleu for one in inside).score(),
                "rouge_l": statistics.fmean(one.rouge_l for one in inside),
                **_as_published(inside),
                **_means(one.bertscore for one in inside),
            }


def _as_published(judged: Sequence[Judged]) -> dict[str, float | str | None]:
    by_milan = [one.bleu_milan for one in judged if one.bleu_milan is not None]
    score, signature = sacrebleu(
        [one.comparison.caption for one in judged], [one.comparison.descriptions for one in judged]
    )
    return {
        "bleu_nltk": merged(by_milan).score(smoothed=False) if by_milan else None,
        "sacrebleu": score,
        "sacrebleu_signature": signature,
    }


def _means(scores: Iterable[BertScores | None]) -> dict[str, float | None]:
    known = [score for score in scores if score is not None]
    return {
        f"bertscore_{name}": statistics.fmean(getattr(score, name) for score in known) if known else None
        for name in ("precision", "recall", "f1")
    }
