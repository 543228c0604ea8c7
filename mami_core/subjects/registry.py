"""A name → a subject: the network with its weights, what it expects of an image, and its layers."""

import dataclasses
import difflib
import importlib
from collections.abc import Callable

from torch import nn

from mami_core.errors import SubjectError
from mami_core.subjects.lite import LITE_MEAN, LITE_SIZES, LITE_STD, build_lite, lite_layers
from mami_core.subjects.names import nearest
from mami_core.subjects.subject import Subject, prepare, subject_of
from mami_core.subjects.torchvision_networks import (
    build_torchvision,
    check_torchvision,
    layers_by_family,
    list_torchvision,
    preprocessing,
)
from mami_core.subjects.weights import load_weights, random_seed, read_state_dict, seeded, weights_id

__all__ = ["Subject", "list_torchvision", "load_subject"]


def load_subject(
    name: str,
    *,
    weights: str | None = None,
    input_size: int | None = None,
    crop: float | None = None,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
) -> Subject:
    """The network that `name` stands for, ready to be read.

    Args:
        name: "efficientnet_lite0", "efficientnet_lite1" or "efficientnet_lite2", whose weights come with their
            packages; "torchvision:NAME" for every classifier of `list_torchvision`; or "python:MODULE:FACTORY" for a
            function without arguments that returns a network or a `Subject`.
        weights: None for the weights that belong to the name (torchvision downloads its own, once); a local
            .safetensors or .pth file; "random:SEED"; or one of torchvision's names, such as "IMAGENET1K_V1".
        input_size: Side of the input in pixels. This and the following default to what the weights were made for.
        crop: Side of the centred square that the network sees, as a share of the image's short side.
        mean: Per channel, on the scale of pixels from 0 to 255.
        std: Per channel, on the scale of pixels from 0 to 255.

    Raises:
        SubjectError: an unknown name, with the nearest known ones; weights that cannot be had or do not fit.
        ConfigError: a preprocessing that cannot be meant.
    """
    kind, _, rest = name.partition(":")
    if name in LITE_SIZES:
        subject = _lite(name, weights, input_size)
    elif kind == "torchvision":
        subject = _torchvision(rest, weights, input_size)
    elif kind == "python":
        subject = _python(name, rest, weights, input_size)
    else:
        raise SubjectError(_unknown(name))
    return dataclasses.replace(
        subject,
        crop=subject.crop if crop is None else crop,
        mean=subject.mean if mean is None else mean,
        std=subject.std if std is None else std,
    )


def _unknown(name: str) -> str:
    known = {each: f"torchvision:{each}" for each in list_torchvision()} | {each: each for each in LITE_SIZES}
    bare = name.rpartition(":")[2].lower()
    found = difflib.get_close_matches(bare, known, n=3, cutoff=0.5)
    hint = f" Nearest: {', '.join(known[each] for each in found)}." if found else ""
    return (
        f"Unknown subject '{name}'. Expected {', '.join(LITE_SIZES)}, torchvision:NAME or python:MODULE:FACTORY.{hint}"
    )


def _lite(name: str, weights: str | None, input_size: int | None) -> Subject:
    size = input_size or LITE_SIZES[name]
    network = build_lite(name, weights, size)
    layers = lite_layers(network)
    return subject_of(network, name=name, input_size=size, mean=LITE_MEAN, std=LITE_STD, default_layers=layers)


def _torchvision(name: str, weights: str | None, input_size: int | None) -> Subject:
    check_torchvision(name)
    network = build_torchvision(name, weights)
    expected = preprocessing(name, weights)
    return subject_of(
        network,
        name=f"torchvision:{name}",
        input_size=input_size or expected.input_size,
        crop=expected.crop,
        mean=expected.mean,
        std=expected.std,
        default_layers=layers_by_family(name, network),
    )


def _python(name: str, path: str, weights: str | None, input_size: int | None) -> Subject:
    seed = random_seed(weights)
    with seeded(seed):
        made = _factory(name, path)()
    if not isinstance(made, Subject | nn.Module):
        raise SubjectError(f"'{name}' returned a {type(made).__name__}; expected a torch.nn.Module or a Subject.")
    network = made.network if isinstance(made, Subject) else made
    if weights is not None and seed is None:
        load_weights(network, read_state_dict(weights), where=weights)
    if not isinstance(made, Subject):
        return subject_of(network, name=name, input_size=input_size or 224)
    return dataclasses.replace(
        made,
        name=name,
        network=prepare(network),
        input_size=input_size or made.input_size,
        weights_id=weights_id(network),
    )


def _factory(name: str, path: str) -> Callable[[], object]:
    module_name, _, function = path.partition(":")
    if not module_name or not function:
        raise SubjectError(f"'{name}': expected python:MODULE:FACTORY, such as 'python:my_package.networks:make'.")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise SubjectError(
            f"'{name}': {error}. The module must be importable where the job runs: "
            "installed, on PYTHONPATH, or in the working directory."
        ) from error
    factory = getattr(module, function, None)
    if not callable(factory):
        raise SubjectError(
            f"'{name}': module {module_name} has no function '{function}'.{nearest(function, dir(module))}"
        )
    return factory
