"""Numbers on their way to an accelerator and back, for which nobody waits.

An accelerator works through what it is given while the host goes on; a plain copy would make the host wait for all of
it. Copies from and to pinned memory do not.
"""

import functools
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import numpy as np
import torch
from torch import Tensor

Take = Callable[[Sequence[Tensor]], None]

_MOST_ON_THEIR_WAY = 3
"""So much is waited for at once, each with memory of its own that the device writes to."""


def to_device(numbers: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """The numbers as a tensor there; on a GPU they arrive once it has done what it was given before."""
    tensor = torch.from_numpy(numbers) if isinstance(numbers, np.ndarray) else numbers
    if tensor.device.type == "cpu" and device.type == "cuda":
        return tensor.contiguous().pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class Arriving:
    """Tensors that come back from a device, each given to its taker, in order.

    On a GPU a thread waits for them and takes them, while the caller gives the device more to do. Whatever a taker
    raises is raised in the caller's thread.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="arriving")
        self._waiting: deque[Future[None]] = deque()

    def __enter__(self) -> "Arriving":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            while kind is None and self._waiting:
                self._waiting.popleft().result()
        finally:
            self._pool.shutdown(cancel_futures=True)

    def put(self, found: Sequence[Tensor], take: Take) -> None:
        """`take` will be called with what was found, on the CPU, before the block ends."""
        if found[0].device.type != "cuda":
            take([each.cpu() for each in found])
            return
        here = [torch.empty(each.shape, dtype=each.dtype, pin_memory=True) for each in found]
        stream = _beside(found[0].device)
        stream.wait_stream(torch.cuda.current_stream(found[0].device))
        with torch.cuda.stream(stream):
            for there, each in zip(here, found, strict=True):
                there.copy_(each, non_blocking=True)
                each.record_stream(stream)
        event = torch.cuda.Event()
        event.record(stream)
        self._waiting.append(self._pool.submit(_taken, event, here, take))
        while len(self._waiting) > _MOST_ON_THEIR_WAY:
            self._waiting.popleft().result()


@functools.cache
def _beside(device: torch.device) -> torch.cuda.Stream:
    """For what is copied while the device computes on."""
    return torch.cuda.Stream(device)


def _taken(event: torch.cuda.Event, found: Sequence[Tensor], take: Take) -> None:
    event.synchronize()
    take(found)
