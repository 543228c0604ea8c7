"""Numbers of many neurons → their mean or median with a 95 % interval, by bootstrap over neurons."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

_TIMES = 2000
_NUMBERS_AT_ONCE = 1 << 24


@dataclass(frozen=True, slots=True)
class Interval:
    """A value, and what lies around it in 95 of 100 draws of as many neurons."""

    value: float
    low: float
    high: float


def bootstrap(
    numbers: Float[Tensor, " neurons"], *, seed: int, statistic: Literal["mean", "median"] = "mean"
) -> Interval:
    """The statistic of at least one number, and its percentile interval (Efron, 1979); the same seed, the same bits.

    Differences of a neuron's two numbers keep the neuron together: give the differences.
    """
    numbers = numbers.double()
    return _interval(_of(numbers[None], statistic), [_of(numbers[some], statistic) for some in _draws(numbers, seed)])


def bootstrap_sums(
    sums: Float[Tensor, "neurons sums"],
    statistic: Callable[[Float[Tensor, "draws sums"]], Float[Tensor, " draws"]],
    *,
    seed: int,
) -> Interval:
    """A statistic of what is summed over neurons, such as the counts of corpus BLEU; otherwise as `bootstrap`."""
    sums = sums.double()
    return _interval(statistic(sums.sum(0)[None]), [statistic(sums[some].sum(1)) for some in _draws(sums, seed)])


def _draws(numbers: Tensor, seed: int) -> Iterator[Tensor]:
    """Rows of `numbers`, draws × as many as there are, some draws at once."""
    generator, at_once = torch.Generator().manual_seed(seed), max(1, _NUMBERS_AT_ONCE // numbers.numel())
    for start in range(0, _TIMES, at_once):
        size = (min(at_once, _TIMES - start), len(numbers))
        yield torch.randint(len(numbers), size, generator=generator)


def _interval(value: Tensor, draws: list[Tensor]) -> Interval:
    low, high = torch.cat(draws).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Interval(value.item(), low, high)


def _of(rows: Tensor, statistic: str) -> Tensor:
    return rows.mean(1) if statistic == "mean" else rows.quantile(0.5, dim=1)
