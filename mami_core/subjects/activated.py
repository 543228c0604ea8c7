"""The units behind a block's last nonlinearity: what the block gives may be linear, and then has no axes of its own.

::

    MobileNetV2's block:   conv ─▶ ReLU6 ─▶ conv ─▶ ReLU6 ─▶ conv ─▶ + ─▶           its units: behind the second ReLU6
    ResNet's bottleneck:   conv ─▶ ReLU ─▶ conv ─▶ ReLU ─▶ conv ─▶ + ─▶ ReLU ─▶     its units: what it gives
"""

from collections.abc import Mapping
from operator import itemgetter

from torch import nn

from mami_core.subjects.reading.survey import Observation, Survey
from mami_core.subjects.reading.watch import Place


def behind_activation(network: nn.Module, found: Survey, block: str) -> str:
    """The layer behind the last activation inside a block that ends linearly; where that is not sure, the block itself.

    A block ends linearly if it gives negative numbers and the last thing inside is a layer with weights that gives as
    many units on as many places: a concatenation is kept, and a block that calls its activations as functions. What is
    behind the activation has as many places, which gates have not, and is all that the layer behind it takes, which a
    branch is not.
    """
    whole = found.observations[block]
    inside = {
        name: seen
        for name, seen in found.readable().items()
        if name.startswith(f"{block}.") and seen.is_map and seen.shape[2:] == whole.shape[2:] and not seen.lens
    }
    last = max((seen for seen in inside.values() if seen.is_activation), key=lambda seen: seen.order, default=None)
    if last is None or not whole.negative:
        return block
    behind = [
        (seen.order, module)
        for seen in inside.values()
        if seen.order > last.order and seen.shape == whole.shape and not seen.activation
        if _has_weights(module := network.get_submodule(seen.place.module))
    ]
    if not behind or _num_taken(min(behind, key=itemgetter(0))[1]) not in (None, last.shape[1]):
        return block
    return plainest(inside, last.place)


def plainest(layers: Mapping[str, Observation], activation: Place) -> str:
    """Of the layers that give what an activation gave the outermost that holds no other activation."""
    others = [each.activation.module for each in layers.values() if each.activation and each.activation != activation]
    for name, seen in layers.items():
        module = name.partition("#")[0]
        around = f"{activation.module}.".startswith(f"{module}.")
        if seen.activation == activation and around and not any(other.startswith(f"{module}.") for other in others):
            return name
    raise AssertionError(f"'{activation.module}' is no layer")


def _has_weights(module: nn.Module) -> bool:
    return any(True for _ in module.parameters(recurse=False))


def _num_taken(module: nn.Module) -> int | None:
    """How many units a convolution or linear layer takes."""
    return getattr(module, "in_channels", getattr(module, "in_features", None))
