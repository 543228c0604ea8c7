"""The units behind a block's last nonlinearity: what the block gives may be linear, and then has no axes of its own.

::

    MobileNetV2's block:   conv ─▶ ReLU6 ─▶ conv ─▶ ReLU6 ─▶ conv ─▶ + ─▶           its units: behind the second ReLU6
    ResNet's bottleneck:   conv ─▶ ReLU ─▶ conv ─▶ ReLU ─▶ conv ─▶ + ─▶ ReLU ─▶     its units: what it gives
"""

from operator import attrgetter

from torch import nn

from mami_core.subjects.reading.survey import Observation, Survey


def behind_activation(network: nn.Module, found: Survey, block: str) -> str:
    """The layer behind the last activation inside a block that ends linearly; where that is not sure, the block itself.

    A block ends linearly if it gives negative numbers and the last thing inside is a layer with weights that gives as
    many units on as many places: a concatenation is kept, and a block that calls its activations as functions. What is
    behind the activation has as many places, which gates have not, and is all that the layer behind it takes, which a
    branch is not.
    """
    whole = found.observations[block]
    inside = [
        seen
        for seen in found.readable().values()
        if whole.holds(seen) and seen.is_map and seen.shape[2:] == whole.shape[2:] and not seen.lens
    ]
    last = max((seen for seen in inside if seen.is_activation), key=attrgetter("order"), default=None)
    if last is None or not whole.negative:
        return block
    behind = [
        seen
        for seen in inside
        if seen.order > last.order and seen.shape == whole.shape and not seen.activation
        if _has_weights(network.get_submodule(seen.place.module))
    ]
    following = min(behind, key=attrgetter("order"), default=None)
    if following is None or _num_taken(network.get_submodule(following.place.module)) not in (None, last.shape[1]):
        return block
    return plainest(found, last)


def plainest(found: Survey, activation: Observation) -> str:
    """Of the layers that give what an activation gave the outermost that holds no other activation."""
    layers = found.readable()
    others = [
        seen for seen in layers.values() if seen.is_activation and seen is not activation and not activation.holds(seen)
    ]
    giving = [
        (seen.begun, -seen.order, name)
        for name, seen in layers.items()
        if seen.activation == activation.place and (seen is activation or seen.holds(activation))
        if not any(seen.holds(other) for other in others)
    ]
    return min(giving)[-1]


def _has_weights(module: nn.Module) -> bool:
    return any(True for _ in module.parameters(recurse=False))


def _num_taken(module: nn.Module) -> int | None:
    """How many units a convolution or linear layer takes."""
    return getattr(module, "in_channels", getattr(module, "in_features", None))
