"""The networks of timm, by any name of its zoo, such as "vit_base_patch16_clip_224.openai"."""

import logging
from typing import Any

from torch import Tensor, nn

from mami_core.errors import SubjectError
from mami_core.subjects.names import nearest
from mami_core.subjects.sources.wanted import Preprocessing, Wanted, as_pixels, optional
from mami_core.subjects.subject import Subject, subject_of
from mami_core.subjects.weights import load_weights, random_seed, read_state_dict, seeded

logger = logging.getLogger(__name__)


def load_timm(name: str, wanted: Wanted) -> Subject:
    """The network `name` of timm's zoo, with its head.

    Raises:
        SubjectError: timm is not installed, has no such network, or its weights cannot be had or do not fit.
    """
    timm = optional("timm", "timm", "A subject of timm")
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise SubjectError(f"timm has no network '{architecture}'.{nearest(architecture, timm.list_models())}")
    network = _build(timm, name, wanted)
    expected = _preprocessing(timm, network, architecture, tag, wanted)
    return subject_of(
        network,
        name=f"timm:{name}",
        input_size=wanted.input_size or expected.input_size,
        crop=expected.crop,
        mean=expected.mean,
        std=expected.std,
        interpolation=expected.interpolation,
    )


def _build(timm: Any, name: str, wanted: Wanted) -> nn.Module:
    seed = random_seed(wanted.weights)
    if wanted.weights is None:
        return _pretrained(timm, name, wanted)
    with seeded(seed):
        if seed is not None:
            return _create(timm, name, wanted, pretrained=False)
        state = read_state_dict(wanted.weights)
        network = _create(timm, name, wanted, pretrained=False)
        if classes := _classes(network, state):
            network = _create(timm, name, wanted, pretrained=False, num_classes=classes)
    load_weights(network, state, where=wanted.weights)
    return network


def _classes(network: nn.Module, state: dict[str, Tensor]) -> int | None:
    """The number of classes in a file, where it is another than the network's."""
    heads = getattr(network, "default_cfg", {}).get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else heads
    sizes = [len(state[f"{head}.weight"]) for head in heads if f"{head}.weight" in state]
    return sizes[0] if sizes and sizes[0] != getattr(network, "num_classes", None) else None


def _create(timm: Any, name: str, wanted: Wanted, **options: Any) -> nn.Module:
    if wanted.input_size is not None:
        try:  # networks with a table of positions are built for a size; others take any
            return timm.create_model(name, img_size=wanted.input_size, **options)
        except TypeError:
            pass
    return timm.create_model(name, **options)


def _pretrained(timm: Any, name: str, wanted: Wanted) -> nn.Module:
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise SubjectError(
            f"timm has no pretrained weights for '{name}'. Give weights=FILE or random:SEED, or one of its tags: "
            f"{', '.join(timm.list_pretrained(name.partition('.')[0] + '*')[:4]) or 'none'}."
        )
    where = config.file or config.url or f"the hub, {config.hf_hub_id}"
    logger.warning("timm's weights of %s come from %s, once, into its cache", name, where)
    try:
        return _create(timm, name, wanted, pretrained=True)
    except Exception as error:  # whatever a hub's client raises: no network, no room, a download cut short
        raise SubjectError(
            f"timm's weights of '{name}' could not be had from {where} ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}). Download them elsewhere and pass the file: weights=FILE."
        ) from error


def _preprocessing(timm: Any, network: nn.Module, architecture: str, tag: str, wanted: Wanted) -> Preprocessing:
    source: Any = network.pretrained_cfg
    if wanted.preprocessing:
        found = timm.get_pretrained_cfg(f"{architecture}.{wanted.preprocessing}")
        if found is None:
            raise SubjectError(f"timm has no weights '{wanted.preprocessing}' of {architecture} to take it from.")
        source = found.to_dict()
    elif wanted.weights is not None and not tag:
        logger.warning("%s: preprocessing of timm's default weights; --preprocessing TAG takes another's", architecture)
    config = timm.data.resolve_data_config(pretrained_cfg=source)
    _, height, width = config["input_size"]
    return Preprocessing(
        input_size=height if height == width else (height, width),
        crop=min(1.0, config["crop_pct"]),
        mean=as_pixels(config["mean"]),
        std=as_pixels(config["std"]),
        interpolation="bilinear" if config["interpolation"] == "random" else config["interpolation"],
    )
