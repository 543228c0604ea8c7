"""Numbers of many neurons → their mean or median with a 95 % interval, by bootstrap over neurons."""

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
    generator, numbers = torch.Generator().manual_seed(seed), numbers.double()
    draws, at_once = [], max(1, _NUMBERS_AT_ONCE // len(numbers))
    for start in range(0, _TIMES, at_once):
        size = (min(at_once, _TIMES - start), len(numbers))
        draws.append(_of(numbers[torch.randint(len(numbers), size, generator=generator)], statistic))
    low, high = torch.cat(draws).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Interval(_of(numbers[None], statistic).item(), low, high)


def _of(rows: Tensor, statistic: str) -> Tensor:
    return rows.mean(1) if statistic == "mean" else rows.quantile(0.5, dim=1)
