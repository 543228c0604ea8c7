"""torchvision's ImageNet classifiers, with torchvision's weights or a local file's."""

import logging
import re
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import WeightsEnum

from mami_core.errors import SubjectError
from mami_core.subjects.names import nearest
from mami_core.subjects.sources.wanted import Preprocessing, as_pixels
from mami_core.subjects.weights import load_weights, random_seed, read_state_dict, seeded

logger = logging.getLogger(__name__)

_LAYERS = {
    r"(wide_)?resne(x)?t\d+.*": r"conv1|layer[1-4]",  # those that MILAN reads, and its published annotations name
    r"vit_.*": r"encoder\.layers\.encoder_layer_\d+",
    r"swin_.*": r"features\.[1357]",
    r"maxvit_.*": r"stem|blocks\.\d",
}
"""Layers to read by default, where the ends of stages are not what people expect; full matches of names."""


def list_torchvision() -> list[str]:
    """Every torchvision classifier's name, without the "torchvision:" before it."""
    return torchvision.models.list_models(module=torchvision.models)


def build_torchvision(name: str, weights: str | None) -> nn.Module:
    """The classifier `name`.

    Args:
        name: As in `list_torchvision`.
        weights: None for torchvision's default weights, the name of others (such as "IMAGENET1K_V1"), a local file,
            or "random:SEED". A file's number of classes may be any.

    Raises:
        SubjectError: an unknown name, weights that cannot be had, or that do not fit.
    """
    check_torchvision(name)
    seed = random_seed(weights)
    if seed is not None:
        with seeded(seed):
            return _build_bare(name)
    published = torchvision.models.get_model_weights(name)
    if weights is None or weights in published.__members__:
        return _build_published(name, published[weights or "DEFAULT"])
    if re.fullmatch(r"\w+", weights) and not Path(weights).is_file():
        raise SubjectError(f"torchvision has no weights '{weights}' of {name}: {_others(published)}, or give a file.")
    state = _as_torchvision_names(read_state_dict(weights))
    network = _build_fitting(name, state)
    load_weights(network, state, where=weights)
    return network


def check_torchvision(name: str) -> None:
    """Refuse a name that torchvision does not have."""
    known = list_torchvision()
    if name not in known:
        raise SubjectError(f"torchvision has no classifier '{name}'.{nearest(name, known)}")


def preprocessing(name: str, weights: str | None, like: str | None = None) -> Preprocessing:
    """What the named weights of torchvision expect; for a file or random ones, what the weights `like`, or the default.

    Raises:
        SubjectError: torchvision has no weights `like` that.
    """
    published = torchvision.models.get_model_weights(name)
    chosen = like or (weights if weights in published.__members__ else "DEFAULT")
    if chosen not in published.__members__:
        raise SubjectError(f"{name} has no weights '{chosen}' to take the preprocessing of: {_others(published)}.")
    is_file = weights not in (None, *published.__members__) and random_seed(weights) is None
    if is_file and not like:
        logger.warning(
            "torchvision:%s: a file does not say its preprocessing; that of torchvision's %s is taken. "
            "--preprocessing takes another's (%s), --mean, --std, --crop and --input-size set it.",
            name,
            published["DEFAULT"].name,
            _others(published),
        )
    transforms = published[chosen].transforms()
    return Preprocessing(
        input_size=transforms.crop_size[0],
        crop=min(1.0, transforms.crop_size[0] / transforms.resize_size[0]),
        mean=as_pixels(transforms.mean),
        std=as_pixels(transforms.std),
        interpolation=transforms.interpolation.value,
    )


def _others(published: type[WeightsEnum]) -> str:
    return ", ".join(published.__members__)


def layers_by_family(name: str, network: nn.Module) -> tuple[str, ...]:
    """The layers to read by default in a family that has a custom; empty for the others."""
    for family, layers in _LAYERS.items():
        if re.fullmatch(family, name):
            return tuple(layer for layer, _ in network.named_modules() if re.fullmatch(layers, layer))
    return ()


def _build_published(name: str, weights: WeightsEnum) -> nn.Module:
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    if not cached.exists():
        logger.warning("Downloading torchvision's weights %s for %s to %s", weights.url, name, cached)
    try:
        return torchvision.models.get_model(name, weights=weights)
    except (OSError, RuntimeError) as error:  # no network, no room, or a download cut short
        raise SubjectError(
            f"torchvision's weights of {name} could not be had from {weights.url} ({error}). "
            "Download them elsewhere and pass the file: weights=FILE (.pth or .safetensors)."
        ) from error


def _build_bare(name: str, num_classes: int = 1000, *, auxiliary: bool = False) -> nn.Module:
    """The network with weights yet to be loaded; built as torchvision builds it for its own weights."""
    builder = torchvision.models.get_model_builder(name)
    if name in ("googlenet", "inception_v3"):
        # These two normalise once more inside, and have heads that only training uses.
        return builder(num_classes=num_classes, transform_input=True, aux_logits=auxiliary, init_weights=False)
    return builder(weights=None, num_classes=num_classes)


def _build_fitting(name: str, state: dict[str, Tensor]) -> nn.Module:
    auxiliary = any(key.startswith(("aux1.", "AuxLogits.")) for key in state)
    with torch.device("meta"):
        standard = _build_bare(name)
    head = [key for key, module in standard.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]
    bias = state.get(f"{head}.bias")
    return _build_bare(name, 1000 if bias is None else len(bias), auxiliary=auxiliary)


def _as_torchvision_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    # torchvision's own DenseNet files carry the names of a time when dots were allowed inside them.
    old = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(\d)\.")
    return {old.sub(r"\1\2.", name): tensor for name, tensor in state.items()}
