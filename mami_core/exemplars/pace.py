"""How long an image takes, measured before anything starts."""

import time
from collections.abc import Sequence

import torch

from mami_core.exemplars.quantile import NUM_BINS
from mami_core.exemplars.search import SearchConfig
from mami_core.subjects import Subject
from mami_core.subjects.reading.lenses import highest

_IMAGES, _PASSES = 2, 2


def state_bytes(num_units: int) -> int:
    """What a search keeps of so many units: exemplars and histograms."""
    return num_units * (8 * SearchConfig().k + 4 * NUM_BINS)


@torch.inference_mode()
def seconds_an_image(subject: Subject, layers: Sequence[str]) -> float:
    """Of one core: a forward pass with these layers read. About; other work on the machine counts too."""
    given = subject.example()
    given = given.expand(_IMAGES, *given.shape[1:]).contiguous()
    num_threads, best = torch.get_num_threads(), float("inf")
    torch.set_num_threads(1)
    try:
        with subject.trace(layers) as maps:
            for _ in range(1 + _PASSES):  # the first warms up
                start = time.perf_counter()
                maps.run(given)
                for layer in layers:
                    highest(maps[layer])
                best = min(best, time.perf_counter() - start)
    finally:
        torch.set_num_threads(num_threads)
    return best / _IMAGES


def cost(operations: int, num_units: int, seconds: float) -> str:
    """What an image takes, and the units' state, in words."""
    return (
        f"{operations / 1e9:,.2f} billion operations an image, about {1000 * seconds:,.3g} ms of one core of this "
        f"machine with these layers read; {state_bytes(num_units) / 1e6:,.1f} MB of state a worker"
    )
