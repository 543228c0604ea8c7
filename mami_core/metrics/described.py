"""Captions × descriptions → rows of the measures table: BLEU, ROUGE-L and BERTScore, each with its interval."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mami_core.metrics.bleu import MAX_ORDER
from mami_core.metrics.intervals import bootstrap_sums
from mami_core.metrics.measures import Rows
from mami_core.metrics.table import Compared, Judged


def description_measures(compared: Compared, about: Rows) -> list[dict]:
    """Of every source: the figures that the scores table has of all neurons, resampled by neuron for the interval."""
    return [
        row
        for (source, text), judged in compared.judged.items()
        if judged
        for row in _of_source(judged, len(compared.neurons), about, source, text, compared.bertscore_model)
    ]


def _of_source(
    judged: Sequence[Judged], num_neurons: int, about: Rows, source: str, text: str | None, model: str | None
) -> Iterator[dict]:
    neurons = torch.tensor([one.comparison.neuron for one in judged])
    said = neurons.unique()

    def summed(of_texts: list) -> Tensor:
        """Over the texts of each neuron of which any is said."""
        found = torch.tensor(of_texts, dtype=torch.float64)
        return torch.zeros(num_neurons, found.shape[1], dtype=torch.float64).index_add(0, neurons, found)[said]

    counts = [
        [*one.bleu.matches, *one.bleu.totals, one.bleu.num_caption_words, one.bleu.num_description_words]
        for one in judged
    ]
    interval = bootstrap_sums(summed(counts), bleu_of_sums, seed=about.seed)
    yield about.row("descriptions: BLEU", source, interval, len(said), text=text)
    numbers: dict[tuple[str, str | None], list[float]] = {
        ("descriptions: ROUGE-L", None): [one.rouge_l for one in judged]
    }
    if model is not None:
        f1 = [one.bertscore.f1 for one in judged if one.bertscore is not None]
        numbers["descriptions: BERTScore F1", model] = f1
    for (measure, judge), of_texts in numbers.items():
        of_neurons = summed([[number, 1.0] for number in of_texts])
        interval = bootstrap_sums(of_neurons, lambda sums: sums[:, 0] / sums[:, 1], seed=about.seed)
        yield about.row(measure, source, interval, len(said), judge=judge, text=text)


def bleu_of_sums(sums: Float[Tensor, "draws 10"]) -> Float[Tensor, " draws"]:
    """`BleuCounts.score` of many counts at once: matches and totals by order, words of captions, of descriptions."""
    matches, totals, (said, wanted) = (
        sums[:, :MAX_ORDER],
        sums[:, MAX_ORDER : 2 * MAX_ORDER],
        sums[:, 2 * MAX_ORDER :].T,
    )
    added = torch.tensor([0.0, *[1.0] * (MAX_ORDER - 1)], dtype=sums.dtype)
    precisions = ((matches + added) / (totals + added)).log().mean(1).exp()
    penalty = (1 - wanted / said.clamp(min=1)).clamp(max=0).exp()
    return 100 * penalty * precisions  # without a match log is minus infinity, and all of it 0
