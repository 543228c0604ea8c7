"""Numbers on their way to an accelerator and back, for which nobody waits.

An accelerator works through what it is given while the host goes on; a plain copy would make the host wait for all of
it. Copies from and to pinned memory do not.
"""

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

Take = Callable[[Sequence[Tensor]], None]


def to_device(numbers: np.ndarray, device: torch.device) -> Tensor:
    """The numbers as a tensor there."""
    tensor = torch.from_numpy(numbers)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class Arriving:
    """Tensors that come back from a device, each given to its taker in the caller's thread, in order.

    On a GPU a tensor is taken one `put` later, when the device is busy with the next one already.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[torch.cuda.Event, list[Tensor], Take]] = deque()

    def put(self, found: Sequence[Tensor], take: Take) -> None:
        """`take` will be called with what was found, on the CPU. Call `finish` after the last one."""
        if found[0].device.type != "cuda":
            take([each.cpu() for each in found])
            return
        here = [torch.empty(each.shape, dtype=each.dtype, pin_memory=True) for each in found]
        for there, each in zip(here, found, strict=True):
            there.copy_(each, non_blocking=True)
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(found[0].device))
        self._waiting.append((event, here, take))
        if len(self._waiting) > 1:
            self._take_next()

    def finish(self) -> None:
        """Wait for what is still on its way."""
        while self._waiting:
            self._take_next()

    def _take_next(self) -> None:
        event, found, take = self._waiting.popleft()
        event.synchronize()
        take(found)
