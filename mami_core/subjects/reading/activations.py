"""Which modules are activations, found by what they do: classes that nobody knows are found too."""

import copy
import itertools

import torch
from torch import Tensor, nn


def activations_in(network: nn.Module) -> set[str]:
    """The names of the modules that give a nonlinear function of each number by itself.

    Gates, which give shares from 0 to 1 by which others are multiplied (sigmoids), are not among them, nor are the
    parts of another.
    """
    found: list[str] = []
    for name, module in network.named_modules():
        if name and not (found and name.startswith(f"{found[-1]}.")) and _is_activation(module):
            found.append(name)
    return set(found)


def _is_activation(module: nn.Module) -> bool:
    if any(True for _ in itertools.chain(module.parameters(), module.buffers())):
        return isinstance(module, nn.PReLU)
    one, other = 3 * torch.randn(2, 1, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    some = one > other
    try:
        tried = copy.deepcopy(module)  # it may keep something of what it is given
        with torch.no_grad():
            zero, once, twice, minus = (tried(factor * one) for factor in (0, 1, 2, -1))
            mixed = tried(torch.where(some, one, other))
        by_itself = once.shape == one.shape and torch.allclose(mixed[some], once[some])
        linear = _alike(twice - zero, 2 * (once - zero)) and _alike(minus - zero, zero - once)
        gate = bool(once.min() >= 0) and bool(once.max() <= 1)
    except Exception:  # whatever the module's own code raises: it takes something else
        return False
    return by_itself and not linear and not gate


def _alike(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, atol=1e-5)
