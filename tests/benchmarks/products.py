"""The floor of decoding and training: the matrix products of a run, recorded while it runs and then repeated alone."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "linear", "_linear_pointwise", "matmul", "mv", "dot")


class Recorder(TorchDispatchMode):
    """Keeps every matrix product that is computed inside, with inputs like its own."""

    def __init__(self) -> None:
        super().__init__()
        self.products: list[tuple[Callable, tuple[Any, ...], dict[str, Any]]] = []
        self._inputs: dict[tuple, Tensor] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.overloadpacket.__name__ in PRODUCTS:
            self.products.append((func, tuple(self._like(each) for each in args), kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _like(self, value: Any) -> Any:
        """An input of the same shape and layout in memory; one for all products that have such an input."""
        if not isinstance(value, Tensor):
            return value
        if value.layout != torch.strided:  # a matrix laid out for its product: the network's own
            return value
        key = (tuple(value.shape), tuple(value.stride()), value.dtype)
        if key not in self._inputs:
            like = torch.empty_strided(*key[:2], dtype=value.dtype, device=value.device)
            self._inputs[key] = like.normal_(std=0.1) if value.is_floating_point() else like.zero_()
        return self._inputs[key]

    @torch.inference_mode()
    def replay(self) -> None:
        """All of them again, in their order, and nothing else."""
        for func, args, kwargs in self.products:
            func(*args, **kwargs)
