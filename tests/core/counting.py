"""How many operators a piece of work takes: on an accelerator each is a launch, which takes longer than a small one.

And how often an accelerator would be waited for.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import profile
from torch.utils._python_dispatch import TorchDispatchMode


def _names(*lines: str) -> frozenset[str]:
    return frozenset(name for line in lines for name in line.split())


LOOKS = _names(
    "alias as_strided chunk detach empty empty_like empty_strided expand expand_as flatten item lift_fresh",
    "new_empty numpy_T permute reshape resolve_conj resolve_neg select slice split split_with_sizes squeeze",
    "t to transpose unbind unflatten unsqueeze view view_as is_nonzero",
)
"""Operators that compute nothing: they allocate memory or look at it in another way."""

WAITS = _names(
    "_local_scalar_dense argwhere bincount is_nonzero item lift_fresh masked_select nonzero repeat_interleave",
    "resolve_conj _unique2 unique_consecutive unique_dim",
)
"""Operators whose result's size, or a number of it, the host has to know (`resolve_conj` begins a `tolist`), or that
hold a list of numbers that has to go to the accelerator."""


def waits(work: Callable[[], object]) -> Counter[str]:
    """The operators that would wait for an accelerator, by name."""
    with _Waits() as seen:
        work()
    return seen.found


class _Waits(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = func.__name__.split(".")[0]
        masks = [each for each in args[1] if each is not None] if name in ("index", "index_put_") else []
        if name in WAITS or any(each.dtype == torch.bool for each in masks):
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


def operations(work: Callable[[], object], *, apart_from: tuple[str, ...] = ()) -> int:
    """The operators that compute, those inside another not counted, nor those in ranges recorded by these names.

    A range that is recorded as "kernel" counts as one.
    """
    with profile() as seen:
        work()
    return sum(_counts(event, apart_from) for event in seen.events() or ())


def _counts(event: FunctionEvent, apart_from: tuple[str, ...]) -> bool:
    above, parent = [], event.cpu_parent
    while parent is not None:
        above.append(parent.name)
        parent = parent.cpu_parent
    if any(name in ("kernel", *apart_from) or name.startswith("aten::") for name in above):
        return False
    return event.name == "kernel" or (event.name.startswith("aten::") and event.name[6:] not in LOOKS)
