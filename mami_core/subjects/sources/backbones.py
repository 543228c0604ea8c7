"""The backbones of torchvision's detection and segmentation models: what gives maps, without boxes and masks."""

import torchvision
from torch import nn

from mami_core.errors import SubjectError
from mami_core.subjects.weights import load_weights, random_seed, read_state_dict, seeded

BACKBONE_SIZE = 512
"""Side of the input by default. These models see images of many sizes."""


def list_backbones() -> list[str]:
    """The models' names, without the "torchvision:" before it."""
    models = torchvision.models
    return models.list_models(module=models.detection) + models.list_models(module=models.segmentation)


def build_backbone(name: str, weights: str | None) -> nn.Module:
    """The backbone of the model `name`, with the model's weights.

    Args:
        name: As in `list_backbones`.
        weights: None for torchvision's default weights, the name of others, a local file of the whole model, or
            "random:SEED".

    Raises:
        SubjectError: weights that cannot be had or do not fit.
    """
    seed = random_seed(weights)
    published = torchvision.models.get_model_weights(name)
    if weights is None or weights in published.__members__:
        try:
            model = torchvision.models.get_model(name, weights=published[weights or "DEFAULT"])
        except (OSError, RuntimeError, KeyError) as error:  # no network, no room, or no weights at all
            raise SubjectError(
                f"torchvision's weights of {name} could not be had ({error}). "
                "Pass a file: weights=FILE, or random:SEED."
            ) from error
        return model.get_submodule("backbone")
    with seeded(seed):
        model = torchvision.models.get_model(name, weights=None, weights_backbone=None)
    if seed is None:
        load_weights(model, read_state_dict(weights), where=weights)
    return model.get_submodule("backbone")
