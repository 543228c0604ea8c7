"""A name → a subject: the network with its weights, what it expects of an image, and its layers."""

import dataclasses
import difflib
import importlib
import inspect
from collections.abc import Callable

from torch import nn

from mami_core.errors import MamiError, SubjectError
from mami_core.sizes import Filter
from mami_core.subjects.names import nearest
from mami_core.subjects.ready import prepare
from mami_core.subjects.sources.exported import load_exported
from mami_core.subjects.sources.hugging_face import load_hugging_face
from mami_core.subjects.sources.lite import LITE_MEAN, LITE_SIZES, LITE_STD, build_lite, lite_stages
from mami_core.subjects.sources.open_clip_towers import load_open_clip
from mami_core.subjects.sources.timm_networks import load_timm
from mami_core.subjects.sources.wanted import Wanted, no_preprocessing_by_name
from mami_core.subjects.subject import Subject, input_fields, subject_of
from mami_core.subjects.weights import load_weights, random_seed, read_state_dict, seeded, weights_id

__all__ = ["Subject", "list_torchvision", "load_subject"]


def load_subject(
    name: str,
    *,
    weights: str | None = None,
    preprocessing: str | None = None,
    input_size: int | tuple[int, int] | None = None,
    crop: float | None = None,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
    interpolation: Filter | None = None,
) -> Subject:
    """The network that `name` stands for, ready to be read.

    Args:
        name: "efficientnet_lite0", "efficientnet_lite1" or "efficientnet_lite2", whose weights come with their
            packages; "torchvision:NAME" for every classifier of `list_torchvision`, and for the backbone of every
            detection and segmentation model of torchvision; "timm:NAME"; "hf:NAME" or "hf:FOLDER" for a vision model
            of transformers; "openclip:ARCHITECTURE/TAG" for an image tower; "export:FILE.pt2" for a program of
            torch.export; or "python:MODULE:FACTORY" for a function without arguments that returns a network or a
            `Subject`.
        weights: None for the weights that belong to the name (torchvision downloads its own, once); a local
            .safetensors or .pth file; "random:SEED"; or one of torchvision's names, such as "IMAGENET1K_V1".
        preprocessing: The published weights whose preprocessing a file is to get, such as "IMAGENET1K_V1";
            by default that of the weights themselves, and for a file that of the network's default ones.
        input_size: Side of the input in pixels, or height and width. This and the following default to what the
            weights were made for.
        crop: Side of the centred square that the network sees, as a share of the image's short side.
        mean: Per channel, on the scale of pixels from 0 to 255.
        std: Per channel, on the scale of pixels from 0 to 255.
        interpolation: How images are resized.

    Raises:
        SubjectError: an unknown name, with the nearest known ones; weights that cannot be had or do not fit.
        ConfigError: a preprocessing that cannot be meant.
    """
    wanted = Wanted(weights=weights, preprocessing=preprocessing, input_size=input_size)
    kind, _, rest = name.partition(":")
    if name in LITE_SIZES:
        subject = _lite(name, wanted)
    elif kind in _COLLECTIONS and rest:
        subject = _COLLECTIONS[kind](rest, wanted)
    else:
        raise SubjectError(_unknown(name))
    if subject.latent_shape and any(each is not None for each in (input_size, crop, mean, std, interpolation)):
        raise SubjectError(f"'{name}' is a generator, which sees no images: leave out their size, crop, mean and std.")
    return dataclasses.replace(
        subject,
        crop=subject.crop if crop is None else crop,
        mean=subject.mean if mean is None else mean,
        std=subject.std if std is None else std,
        interpolation=interpolation or subject.interpolation,
    )


def _unknown(name: str) -> str:
    known = {each: f"torchvision:{each}" for each in list_torchvision()} | {each: each for each in LITE_SIZES}
    bare = name.rpartition(":")[2].lower()
    found = difflib.get_close_matches(bare, known, n=3, cutoff=0.5)
    hint = f" Nearest: {', '.join(known[each] for each in found)}." if found else ""
    kinds = ", ".join(f"{kind}:{rest}" for kind, rest in _NAMES.items())
    return f"Unknown subject '{name}'. Expected {', '.join(LITE_SIZES)}, {kinds}.{hint}"


def _lite(name: str, wanted: Wanted) -> Subject:
    no_preprocessing_by_name(name, wanted)
    size = wanted.input_size or LITE_SIZES[name]
    if not isinstance(size, int):
        raise SubjectError(f"{name} sees squares, got an input of {size[0]} x {size[1]} pixels.")
    network = build_lite(name, wanted.weights, size)
    stages = lite_stages(network)
    return subject_of(network, name=name, input_size=size, mean=LITE_MEAN, std=LITE_STD, stages=stages)


def list_torchvision() -> list[str]:
    """Every torchvision classifier's name, without the "torchvision:" before it."""
    # Only where it is wanted: torchvision brings torch's compiler, two seconds of the start of every worker.
    from mami_core.subjects.sources import torchvision_networks

    return torchvision_networks.list_torchvision()


def _torchvision(name: str, wanted: Wanted) -> Subject:
    from mami_core.subjects.sources.torchvision_subjects import load_torchvision

    return load_torchvision(name, wanted)


def _python(path: str, wanted: Wanted) -> Subject:
    name, weights, input_size = f"python:{path}", wanted.weights, wanted.input_size
    no_preprocessing_by_name(name, wanted)
    seed = random_seed(weights)
    factory = _factory(name, path)
    _check_takes_nothing(name, factory)
    try:
        with seeded(seed):
            made = factory()
    except MamiError:  # such as one of its networks that cannot be read
        raise
    except Exception as error:  # whatever the factory's own code raises
        raise SubjectError(f"'{name}' raised {type(error).__name__}: {' '.join(str(error).split())}") from error
    if not isinstance(made, Subject | nn.Module):
        raise SubjectError(f"'{name}' returned a {type(made).__name__}; expected a torch.nn.Module or a Subject.")
    network = made.network if isinstance(made, Subject) else made
    if weights is not None and seed is None:
        load_weights(network, read_state_dict(weights), where=weights)
    if not isinstance(made, Subject):
        return subject_of(network, name=name, input_size=input_size or 224)
    if input_size is not None:
        made = dataclasses.replace(made, **input_fields(input_size))
    network, channels_last = prepare(network, made.input_shape)
    return dataclasses.replace(
        made, name=name, network=network, channels_last=channels_last, weights_id=weights_id(network)
    )


def _factory(name: str, path: str) -> Callable[[], object]:
    module_name, _, function = path.partition(":")
    if "/" in module_name or module_name.endswith(".py"):
        dotted = module_name.removesuffix(".py").removeprefix("./").replace("/", ".")
        raise SubjectError(f"'{name}': expected a module and not a file: python:{dotted}:{function or 'FACTORY'}.")
    if not module_name or not function:
        raise SubjectError(f"'{name}': expected python:MODULE:FACTORY, such as 'python:my_package.networks:make'.")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise SubjectError(
            f"'{name}': {error}. The module must be importable where the job runs: "
            "installed, on PYTHONPATH, or in the working directory."
        ) from error
    except Exception as error:  # whatever the module's own code raises
        raise SubjectError(f"'{name}': importing {module_name} fails ({type(error).__name__}: {error}).") from error
    factory = getattr(module, function, None)
    if not callable(factory):
        raise SubjectError(
            f"'{name}': module {module_name} has no function '{function}'.{nearest(function, dir(module))}"
        )
    return factory


def _check_takes_nothing(name: str, factory: Callable[..., object]) -> None:
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # some callables do not tell
        return
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [each.name for each in parameters if each.default is each.empty and each.kind not in variable]
    if needed:
        raise SubjectError(
            f"'{name}' wants arguments ({', '.join(needed)}). Expected a function without: wrap it in one that gives "
            "them, or give them defaults."
        )


_COLLECTIONS: dict[str, Callable[[str, Wanted], Subject]] = {
    "torchvision": _torchvision,
    "timm": load_timm,
    "hf": load_hugging_face,
    "openclip": load_open_clip,
    "export": load_exported,
    "python": _python,
}
_NAMES = {
    "torchvision": "NAME",
    "timm": "NAME",
    "hf": "NAME or hf:FOLDER",
    "openclip": "ARCHITECTURE/TAG",
    "export": "FILE.pt2",
    "python": "MODULE:FACTORY",
}
"""What follows each collection's name."""
