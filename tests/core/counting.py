"""How many operators a piece of work takes: on an accelerator each is a launch, which takes longer than a small one."""

from collections.abc import Callable

from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import profile

LOOKS = frozenset(
    name
    for names in (
        "alias as_strided chunk detach empty empty_like empty_strided expand expand_as flatten item lift_fresh",
        "new_empty numpy_T permute reshape resolve_conj resolve_neg select slice split split_with_sizes squeeze",
        "t to transpose unbind unflatten unsqueeze view view_as is_nonzero",
    )
    for name in names.split()
)
"""Operators that compute nothing: they allocate memory or look at it in another way."""


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
