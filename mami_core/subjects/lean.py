"""The same network with less work in it, for reading certain layers only."""

import copy
import dataclasses
import logging
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mami_core.contracts import LOWEST
from mami_core.errors import SubjectError
from mami_core.subjects.late_biases import (
    Call,
    keep_biases,
    leavable,
    leave_biases,
    leaving_everywhere,
    unread_convs,
)
from mami_core.subjects.precision import Precision, products
from mami_core.subjects.reading.survey import adopt, survey
from mami_core.subjects.reading.trace import Trace
from mami_core.subjects.subject import Subject

logger = logging.getLogger(__name__)

_ROUNDING = 1e-4
"""How far a layer may move, as a share of its highest value: folding rounds differently, and no more than that."""
_LOUD = 100


def lean(subject: Subject, layers: Sequence[str], *, precision: Precision = "float32") -> Subject:
    """A copy of `subject` that gives the same at `layers` up to rounding, and is faster; computing in `precision`.

    Batch norms are folded into the convolutions before them (Jacob et al., arXiv 1712.05877, section 3.2), where no
    layer of `layers` reads what stands between the two. A network in which that would change a layer by more than
    rounding, because a convolution's output is used elsewhere too, is left as it is; so is one in which anything
    goes wrong meanwhile. On a GPU, biases and sums are added by the ReLUs behind (`late_biases`).

    Raises:
        SubjectError: a layer that the subject does not have, or that cannot be read; bfloat16 for a network that
            cannot be copied.
    """
    layers = [
        subject.dictionaries[name].layer if (name := each.removesuffix(LOWEST)) in subject.dictionaries else name
        for each in layers
    ]
    noise = subject.example()
    before = _read(subject.network, layers, noise)
    try:
        network = _leaner(subject, layers, noise)
        after = _read(network, layers, noise)
    except Exception as error:  # whatever the network's own code raises: it is only about speed
        logger.debug("%s is read as it is: %s", subject.name, error)
        return _computing_in(precision, subject)
    same = _all_alike(before, after)
    return _computing_in(precision, dataclasses.replace(subject, network=network) if same else subject)


def _computing_in(precision: Precision, subject: Subject) -> Subject:
    if precision == subject.precision:
        return subject
    if precision != "bfloat16":
        return dataclasses.replace(subject, precision=precision)
    try:
        network = copy.deepcopy(subject.network).bfloat16()
    except Exception as error:  # a tensor with a history (weight norm), a lock, an open file
        raise SubjectError(
            f"Subject '{subject.name}' cannot be copied ({error}), so its weights stay as they are. "
            "Use float32 or tf32 instead of bfloat16."
        ) from error
    adopt(network, subject.network)
    return dataclasses.replace(subject, network=network, precision=precision)


def _leaner(subject: Subject, layers: Sequence[str], noise: Tensor) -> nn.Module:
    survey(subject.network, subject.input_shape)
    network = copy.deepcopy(subject.network)
    for conv, batch_norm in _foldable(network, layers, noise):
        _fold(network, conv, batch_norm)
    adopt(network, subject.network)
    _leave_biases(network, layers, noise)
    return network


def _leave_biases(network: nn.Module, layers: Sequence[str], noise: Tensor) -> None:
    """Where that is of use, and changes no layer by more than rounding: for noise, and for much louder noise.

    What is written in place into maps that are still to be added may do nothing to small numbers.
    """
    convs = leavable(_calls(network, noise), layers)
    if not convs:
        return
    probes = [noise, _LOUD * noise]
    before = [_read(network, layers, probe) for probe in probes]
    leaving = leave_biases(convs)
    try:
        with leaving_everywhere(leaving):
            after = [_read(network, layers, probe) for probe in probes]
        same = all(_all_alike(*pair) for pair in zip(before, after, strict=True))
    except Exception as error:  # whatever the network's own code does with what is no plain tensor
        logger.debug("Biases are added where they were: %s", error)
        same = False
    keep_biases([conv for conv in leaving if not (same and conv.was_of_use)])


def _fold(network: nn.Module, conv_name: str, batch_norm_name: str) -> None:
    conv, batch_norm = network.get_submodule(conv_name), network.get_submodule(batch_norm_name)
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(batch_norm, nn.BatchNorm2d)
    network.set_submodule(conv_name, fuse_conv_bn_eval(conv, batch_norm))
    network.set_submodule(batch_norm_name, nn.Identity())


def _foldable(network: nn.Module, layers: Sequence[str], inputs: Tensor) -> list[tuple[str, str]]:
    """Each batch norm, with the convolution that it reads, where both run once and `layers` read the latter nowhere."""
    calls = _calls(network, inputs)
    count = Counter(name for name, _, _, _ in calls)
    convs = list(unread_convs(calls, layers))
    return [
        (conv, name)
        for name, module, arguments, _ in calls
        if isinstance(module, nn.BatchNorm2d) and count[name] == 1
        for conv, _, output in convs
        if arguments and output is arguments[0]
    ]


def _calls(network: nn.Module, inputs: Tensor) -> list[Call]:
    """Every module's every call in one forward pass."""
    calls: list[Call] = []

    def watch(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        return module.register_forward_hook(
            lambda _module, arguments, output: calls.append((name, module, arguments, output))
        )

    handles = [watch(name, module) for name, module in network.named_modules()]
    try:
        with torch.inference_mode():
            network(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return calls


@products("float32")
def _read(network: nn.Module, layers: Sequence[str], inputs: Tensor) -> list[Tensor]:
    with torch.inference_mode(), Trace(network, layers) as outputs:
        network(inputs)
    return [outputs[layer] for layer in layers]


def _all_alike(before: Sequence[Tensor], after: Sequence[Tensor]) -> bool:
    return all(_alike(*pair) for pair in zip(before, after, strict=True))


def _alike(before: Tensor, after: Tensor) -> bool:
    before, after = before.float(), after.float()
    return bool((before - after).abs().max() <= _ROUNDING * before.abs().max())
