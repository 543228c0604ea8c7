"""Any network as every subject runs: unwrapped, in eval mode, without gradients, channels last where it can be."""

import logging
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from mami_core.errors import SubjectError
from mami_core.subjects.reading.survey import device_of, input_dtype
from mami_core.subjects.reading.watch import tensors_in
from mami_core.subjects.weights import seeded

logger = logging.getLogger(__name__)

_ROUNDING = 5e-2
"""How far the output may move when sums come in another order, in half precision too; what is wrong moves it all."""


def prepare(network: nn.Module, shape: tuple[int, ...]) -> tuple[nn.Module, bool]:
    """The network, made ready in place for inputs of `shape` (without the batch), and whether it runs channels last.

    What wraps a network (torch.compile, DataParallel, an averaged model) is taken off. Lazy modules get their weights
    from one pass, always the same ones.

    Raises:
        SubjectError: a network that cannot be read: scripted, without values, quantised for another machine.
    """
    network = _unwrapped(network)
    _refuse(network)
    network.eval()
    if any(is_lazy(tensor) for _, tensor in _tensors(network)):
        with seeded(0):
            _materialise(network, shape)
    for parameter in network.parameters():
        if parameter.is_leaf and parameter.is_floating_point():
            parameter.requires_grad_(False)
    return network, _go_channels_last(network, shape)


def _unwrapped(network: nn.Module) -> nn.Module:
    while True:
        inner = getattr(network, "_orig_mod", None)
        if inner is None and isinstance(network, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = network.module
        if inner is None and isinstance(network, torch.optim.swa_utils.AveragedModel):
            inner = network.module
        if not isinstance(inner, nn.Module):
            break
        network = inner
    for name, module in list(network.named_modules()):
        compiled = getattr(module, "_orig_mod", None)
        if name and isinstance(compiled, nn.Module):
            network.set_submodule(name, compiled)
        if getattr(module, "_compiled_call_impl", None) is not None:
            module._compiled_call_impl = None  # hooks are not seen inside compiled code
    return network


def _refuse(network: nn.Module) -> None:
    kind = type(network).__name__
    if any(isinstance(module, torch.jit.ScriptModule) for module in network.modules()):
        raise SubjectError(
            f"The network {kind} is scripted (TorchScript): nobody can look inside while it runs. "
            "Give the Python network that it was made from, with its weights."
        )
    without = [name for name, tensor in _tensors(network) if tensor.is_meta]
    if without:
        raise SubjectError(
            f"The network {kind} is on the meta device: its weights have no values, such as those of {without[0]}. "
            "Make it without torch.device('meta'), or load its weights with to_empty() and load_state_dict()."
        )


def _tensors(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from network.named_parameters()
    yield from network.named_buffers()


def _materialise(network: nn.Module, shape: tuple[int, ...]) -> None:
    try:
        with torch.no_grad():
            network(torch.zeros(2, *shape))
    except Exception as error:  # whatever the network's own code raises
        raise SubjectError(
            f"The network {type(network).__name__} has lazy weights, and the pass that was to make them failed "
            f"({type(error).__name__}: {' '.join(str(error).split())}). Call it once on an image in the factory."
        ) from error


def _go_channels_last(network: nn.Module, shape: tuple[int, ...]) -> bool:
    """Bring the weights into the faster order if the network then gives the same, and say whether it does."""
    if len(shape) != 3:
        return False
    noise = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    noise = noise.to(device_of(network), input_dtype(network))
    try:
        before = _output(network, noise)
    except Exception:  # the survey says what is wrong
        return False
    try:
        _reorder(network, torch.channels_last)
        after = _output(network, noise.contiguous(memory_format=torch.channels_last))
    except Exception as error:  # any: it is only about speed
        logger.debug("%s does not run channels last: %s", type(network).__name__, error)
        after = None
    if before is not None and after is not None and _alike(before, after):
        return True
    _reorder(network, torch.contiguous_format)
    return False


def _output(network: nn.Module, inputs: Tensor) -> Tensor | None:
    with torch.inference_mode(False), torch.no_grad():
        found = [tensor.detach().float().flatten() for _, tensor in tensors_in(network(inputs.clone()))]
    return torch.cat(found) if found else None


def _alike(before: Tensor, after: Tensor) -> bool:
    if before.shape != after.shape:
        return False
    fine = before.isfinite()
    if not bool((fine == after.isfinite()).all()):
        return False
    highest = before[fine].abs().max() if fine.any() else 0.0
    return bool(((before - after)[fine].abs() <= _ROUNDING * highest).all())


def _reorder(network: nn.Module, memory: torch.memory_format) -> None:
    for parameter in network.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=memory)
