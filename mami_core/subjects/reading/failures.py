"""What to say of a network that fails on what a survey shows it."""

import torch
from torch import Tensor, nn

from mami_core.subjects.reading.probes import BLACK


def fails(network: nn.Module, shape: tuple[int, ...], probes: Tensor, error: Exception) -> str:
    """Why a network failed on one probe: the input, what it needs of others beside it, or gradients."""
    name, what = type(network).__name__, f"{type(error).__name__}: {short(error)}"
    try:
        with torch.no_grad():
            network(probes.clone())
    except Exception:  # the batch fails as the one image does: the input is to blame
        sizes = " × ".join(map(str, shape[1:])) or str(shape[0])
        return (
            f"The network {name} fails on an input of {sizes} {'pixels' if len(shape) == 3 else 'numbers'} ({what}). "
            f"Expected a network whose forward takes one batch {['B', *shape]}: wrap one that wants other arguments; "
            "another input_size may help."
        )
    try:
        with torch.no_grad():
            network(probes[BLACK, None].clone())
    except Exception:  # as before
        pass
    else:
        return (
            f"The network {name} computes gradients while it runs ({what}), and is read without any. Give one whose "
            "forward pass does without."
        )
    return (
        f"The network {name} cannot see one image alone, only several together ({what}): what it gives for an image "
        "depends on the others of the batch. Batch norms must have running statistics and use them."
    )


def short(error: Exception) -> str:
    """What an error says, on one line."""
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:299]}…"
