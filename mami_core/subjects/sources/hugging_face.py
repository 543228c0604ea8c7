"""The vision models of transformers, by name or local folder, such as "facebook/dinov2-base"."""

import functools
import inspect
import json
import logging
from pathlib import Path
from typing import Any

from torch import nn

from mami_core.errors import SubjectError
from mami_core.sizes import Filter
from mami_core.subjects.sources.wanted import Preprocessing, Wanted, as_pixels, no_preprocessing_by_name, optional
from mami_core.subjects.subject import IMAGENET_MEAN, IMAGENET_STD, Subject, subject_of
from mami_core.subjects.weights import load_weights, random_seed, read_state_dict, seeded

logger = logging.getLogger(__name__)

_TOWERS = {"clip": "CLIPVisionModel", "siglip": "SiglipVisionModel", "siglip2": "SiglipVisionModel"}
"""The image side of models that see texts too."""
_SHUFFLING = {"vit_mae": "ViT"}
"""Models that drop tokens at random, and the plain ones whose weights they hold."""
_FILTERS: tuple[Filter, ...] = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""By Pillow's number, which a processor's `resample` is."""


_NEVER_CROPPED = 384
"""From this size on, processors with a `crop_pct` (ConvNeXt's) do not crop."""


def load_hugging_face(name: str, wanted: Wanted) -> Subject:
    """The model in a local folder, or of that name on the hub: whole where it sees images alone, else its image side.

    Raises:
        SubjectError: transformers is not installed, there is no such model, or it sees no images.
    """
    transformers = optional("transformers", "hf", "A subject of transformers")
    no_preprocessing_by_name(f"hf:{name}", wanted)
    seed = random_seed(wanted.weights)
    config = _from(name, transformers.AutoConfig.from_pretrained)
    kind, config = _kind(transformers, name, config)
    with seeded(seed or 0):  # what a checkpoint lacks, such as a pooler, is the same each time
        if wanted.weights is None:
            network = _from(name, functools.partial(kind.from_pretrained, config=config))
        else:
            network = kind(config)
    if wanted.weights is not None and seed is None:
        load_weights(network, read_state_dict(wanted.weights), where=wanted.weights)
    network = network.float()
    expected = _preprocessing(name, config)
    if wanted.input_size not in (None, _image_size(config)):
        _take_any_size(network)
    return subject_of(
        network,
        name=f"hf:{name}",
        input_size=wanted.input_size or expected.input_size,
        crop=expected.crop,
        mean=expected.mean,
        std=expected.std,
        interpolation=expected.interpolation,
    )


def _from(name: str, load: Any) -> Any:
    """What `load` gives, from this machine if it is here, else from the hub and said so."""
    if Path(name).is_dir():
        return _or_say(name, load, local_files_only=True)
    try:
        return load(name, local_files_only=True)
    except (OSError, ValueError):
        logger.warning("Downloading %s from the hub of transformers into its cache, once", name)
    return _or_say(name, load)


def _or_say(name: str, load: Any, **options: bool) -> Any:
    try:
        return load(name, **options)
    except Exception as error:  # whatever a hub's client raises: no network, no such model, a file cut short
        raise SubjectError(
            f"The model '{name}' could not be had ({type(error).__name__}: {' '.join(str(error).split())[:200]}). "
            "Expected a name on the hub or a local folder with config.json and model.safetensors: hf:FOLDER."
        ) from error


def _kind(transformers: Any, name: str, config: Any) -> tuple[Any, Any]:
    """The class to build, and its configuration."""
    if config.model_type in _SHUFFLING:
        plain = _SHUFFLING[config.model_type]
        values = {key: value for key, value in config.to_dict().items() if key != "model_type"}
        return getattr(transformers, f"{plain}Model"), getattr(transformers, f"{plain}Config")(**values)
    if hasattr(config, "vision_config"):
        tower = _TOWERS.get(config.model_type, "")
        if not hasattr(transformers, tower):
            raise SubjectError(f"'{name}' is a {config.model_type}, of whose image side nothing is known here.")
        return getattr(transformers, tower), config.vision_config
    for architecture in (*(config.architectures or ()), type(config).__name__.replace("Config", "Model")):
        found = getattr(transformers, architecture, None)
        if found is not None and found.main_input_name == "pixel_values":
            return found, config
    raise SubjectError(f"'{name}' is a {config.model_type} that sees no images.")


def _take_any_size(network: nn.Module) -> None:
    """Let a table of positions be stretched where the model can do that."""
    if "interpolate_pos_encoding" in inspect.signature(type(network).forward).parameters:
        network.forward = functools.partial(network.forward, interpolate_pos_encoding=True)


def _image_size(config: Any) -> Any:
    return getattr(config, "image_size", None)


def _preprocessing(name: str, config: Any) -> Preprocessing:
    values = _processor(name)
    fallback = _image_size(config) or 224
    resized, cropped = values.get("size") or fallback, values.get("crop_size") or {}
    size = _pixels(cropped if values.get("do_center_crop", bool(cropped)) and cropped else resized, fallback)
    shortest = resized.get("shortest_edge") if isinstance(resized, dict) else None
    crop = min(1.0, _shorter(size) / shortest) if shortest else 1.0
    if values.get("crop_pct") and shortest and shortest < _NEVER_CROPPED:
        crop = float(values["crop_pct"])
    if values.get("do_flip_channel_order"):
        raise SubjectError(f"'{name}' sees blue, green, red; images here are red, green, blue. Wrap it in a factory.")
    mean, std = _normalisation(name, values)
    return Preprocessing(
        input_size=size,
        crop=crop,
        mean=mean,
        std=std,
        interpolation=_FILTERS[int(values.get("resample", 2))],
    )


def _normalisation(name: str, values: dict[str, Any]) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and std for pixels from 0 to 255; a processor that names none divides by 255 alone."""
    if not values:
        logger.warning("%s has no preprocessor_config.json: ImageNet's mean and std are taken", name)
        return IMAGENET_MEAN, IMAGENET_STD
    if "image_mean" not in values or not values.get("do_normalize", True):
        return as_pixels((0.0, 0.0, 0.0)), as_pixels((1.0, 1.0, 1.0))
    return as_pixels(values["image_mean"]), as_pixels(values["image_std"])


def _processor(name: str) -> dict[str, Any]:
    folder = Path(name)
    if not folder.is_dir():
        hub = optional("transformers", "hf", "A subject of transformers")
        try:
            return hub.AutoImageProcessor.from_pretrained(name).to_dict()
        except (OSError, ValueError, ImportError):
            return {}
    file = folder / "preprocessor_config.json"
    return json.loads(file.read_text()) if file.is_file() else {}


def _pixels(size: Any, fallback: int) -> int | tuple[int, int]:
    if isinstance(size, dict):
        size = (size["height"], size["width"]) if "height" in size else size.get("shortest_edge", fallback)
    if isinstance(size, list | tuple):
        height, width = size
        return int(height) if height == width else (int(height), int(width))
    return int(size)


def _shorter(size: int | tuple[int, int]) -> int:
    return size if isinstance(size, int) else min(size)
