"""How much work each module of a subject is."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from mami_core.subjects.subject import Subject


def operations_by_layer(subject: Subject) -> dict[str, int]:
    """Floating-point operations of each module for one image, by its name; "" is the whole network."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        subject.network(subject.example())
    counts = {name: sum(by_operation.values()) for name, by_operation in counter.get_flop_counts().items()}
    root = type(subject.network).__name__
    found = {name.removeprefix(f"{root}."): count for name, count in counts.items() if name != "Global"}
    return found | {"": counts.get("Global", 0)}
