"""Forward passes that a GPU repeats by itself: recorded once as a CUDA graph, then started by one call.

A network of many layers takes the host longer to start, kernel by kernel, than the GPU to compute; and what decodes
the next images wants that time.
"""

import logging
import weakref
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)

_RUNS_BEFORE = 3
"""Passes of one shape before they are recorded: recording takes as long as some, and memory for one more."""
_MOST_KINDS = 4
"""Kinds of passes of one network that are kept."""

Read = Callable[[Tensor], Mapping[str, Any]]
"""Inputs → what the layers give, in new tensors."""


class Passes:
    """Forward passes of one network that read the same layers of inputs of one shape."""

    def __init__(self) -> None:
        self._runs_left = _RUNS_BEFORE
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: Tensor | None = None
        self._outputs: dict[str, Tensor] = {}

    def run(self, inputs: Tensor, read: Read) -> dict[str, Any]:
        """What `read` gives; once it is recorded, in the same tensors each time."""
        if self._graph is not None and self._inputs is not None:
            self._inputs.copy_(inputs)
            self._graph.replay()
            return dict(self._outputs)
        found = dict(read(inputs))
        self._runs_left -= 1
        if self._runs_left == 0:
            try:
                self._record(inputs, read, found)
            except Exception as error:  # whatever the network does that cannot be recorded: it is only about speed
                logger.debug("Passes are not recorded: %s", error)
                self._graph = None
        return found

    def _record(self, inputs: Tensor, read: Read, expected: Mapping[str, Any]) -> None:
        if not all(isinstance(each, Tensor) for each in expected.values()):
            return
        expected = {name: each.clone() for name, each in expected.items()}
        with torch.inference_mode(False), torch.no_grad():
            kept = torch.empty_like(inputs)  # what is made in inference mode nobody may write into outside it
        kept.copy_(inputs)
        graph, outputs = _recorded(lambda: dict(read(kept)), inputs.device)
        graph.replay()
        if all(outputs[name].equal(each) for name, each in expected.items()):
            self._graph, self._inputs, self._outputs = graph, kept, outputs


def _recorded(work: Callable[[], dict[str, Any]], device: torch.device) -> tuple[torch.cuda.CUDAGraph, dict[str, Any]]:
    """What this thread starts in `work`, and what that gives. `torch.cuda.graph` would first empty all caches."""
    graph, stream, pool = torch.cuda.CUDAGraph(), torch.cuda.Stream(device), torch.cuda.graph_pool_handle()
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        graph.capture_begin(pool, capture_error_mode="thread_local")  # others decode meanwhile
        try:
            found = work()
        finally:
            _end(graph.capture_end, device, pool)
    torch.cuda.current_stream(device).wait_stream(stream)
    return graph, found


def _end(capture_end: Callable[[], None], device: torch.device, pool: Any) -> None:
    try:
        capture_end()
    except RuntimeError:
        # torch leaves all as if the recording lasted: up to 2.11 the allocator keeps what waits for other streams,
        if torch.__version__ < "2.12":
            with suppress(RuntimeError, AttributeError):
                torch._C._cuda_endAllocateToPool(device.index, pool)
                torch._C._cuda_releasePool(device.index, pool)
        # and random numbers are refused from now on.
        with suppress(RuntimeError):
            generator = torch.cuda.default_generators[device.index]
            generator.graphsafe_set_state(generator.clone_state())
        raise


_PASSES: weakref.WeakKeyDictionary[nn.Module, dict[Hashable, Passes]] = weakref.WeakKeyDictionary()


def passes_of(network: nn.Module, what: Hashable, inputs: Tensor) -> Passes | None:
    """The passes of a network that read `what` from such inputs; None where they are not to be recorded."""
    if not inputs.is_cuda or torch.is_grad_enabled() or torch.cuda.is_current_stream_capturing():
        return None
    precision = torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision  # pyrefly: ignore
    key = (what, inputs.shape, inputs.dtype, inputs.device, inputs.stride(), _addresses(network), precision)
    kept = _PASSES.setdefault(network, {})
    if key not in kept and len(kept) == _MOST_KINDS:
        return None
    return kept.setdefault(key, Passes())


def _addresses(network: nn.Module) -> tuple[int, ...]:
    """Where a network's numbers lie: what is recorded reads them there, and any of them may have been replaced."""
    return tuple(each.data_ptr() for each in [*network.parameters(), *network.buffers()])
