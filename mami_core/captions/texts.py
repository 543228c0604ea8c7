"""Captions as text, built while the next neurons are decoded."""

import math
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from torch import Tensor

from mami_core.captions.vocabulary import Vocabulary
from mami_core.contracts import Beam


class Texts:
    """A thread that turns numbers into beams."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="texts")
        self._begun: list[Future[list[list[Beam]]]] = []

    def __enter__(self) -> "Texts":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def begin(self, ranked: Sequence[Tensor]) -> None:
        """What `ranking.ranked` says of the best captions of some neurons, on the CPU."""
        self._begun.append(self._pool.submit(_beams, self._vocabulary, *ranked))

    def finished(self) -> list[list[Beam]]:
        """The beams of all neurons, in the order in which they were begun."""
        return [beams for future in self._begun for beams in future.result()]


def _beams(vocabulary: Vocabulary, *ranked: Tensor) -> list[list[Beam]]:
    columns = (column.tolist() for column in ranked)
    return [_of_neuron(vocabulary, *neuron) for neuron in zip(*columns, strict=True)]


def _of_neuron(vocabulary: Vocabulary, words: list[list[int]], *numbers: list[float]) -> list[Beam]:
    # With a tiny vocabulary there are fewer captions than beams: the rest have no likelihood.
    return [
        Beam(
            caption=vocabulary.decode(caption),
            score=score,
            log_p_caption=likelihood,
            log_p_language=_known(by_itself),
            support=_known(support),
        )
        for caption, score, likelihood, by_itself, support in zip(words, *numbers, strict=True)
        if score > -math.inf
    ]


def _known(number: float) -> float | None:
    return None if math.isnan(number) else number
