"""The image towers of OpenCLIP: "ARCHITECTURE" or "ARCHITECTURE/PRETRAINED", such as "ViT-B-32/laion2b_s34b_b79k"."""

import logging
from typing import Any

from mami_core.errors import SubjectError
from mami_core.subjects.names import nearest
from mami_core.subjects.sources.wanted import Wanted, as_pixels, no_preprocessing_by_name, optional
from mami_core.subjects.subject import Subject, subject_of
from mami_core.subjects.weights import load_weights, random_seed, read_state_dict, seeded

logger = logging.getLogger(__name__)


def load_open_clip(name: str, wanted: Wanted) -> Subject:
    """The image tower of that architecture and those weights.

    Raises:
        SubjectError: open_clip is not installed, knows no such architecture, or the weights cannot be had.
    """
    open_clip = optional("open_clip", "openclip", "A tower of OpenCLIP")
    no_preprocessing_by_name(f"openclip:{name}", wanted)
    architecture, _, pretrained = name.partition("/")
    if architecture not in open_clip.list_models():
        raise SubjectError(f"open_clip has no '{architecture}'.{nearest(architecture, open_clip.list_models())}")
    seed = random_seed(wanted.weights)
    if wanted.weights is None and not pretrained:
        raise SubjectError(
            f"'openclip:{name}': say which weights: openclip:{architecture}/TAG with one of "
            f"{', '.join(open_clip.list_pretrained_tags_by_model(architecture)[:4]) or 'none'}, "
            "weights=FILE or random:SEED."
        )
    with seeded(seed):
        model = _create(open_clip, architecture, pretrained if wanted.weights is None else None)
    if wanted.weights is not None and seed is None:
        state = read_state_dict(wanted.weights)
        tower = {key.removeprefix("visual."): value for key, value in state.items() if key.startswith("visual.")}
        load_weights(model.visual, tower or state, where=wanted.weights)
    size = model.visual.image_size
    return subject_of(
        model.visual,
        name=f"openclip:{name}",
        input_size=wanted.input_size or (size if isinstance(size, int) else tuple(size)),
        crop=1.0,
        mean=as_pixels(getattr(model.visual, "image_mean", None) or open_clip.OPENAI_DATASET_MEAN),
        std=as_pixels(getattr(model.visual, "image_std", None) or open_clip.OPENAI_DATASET_STD),
        interpolation=(getattr(model.visual, "preprocess_cfg", None) or {}).get("interpolation", "bicubic"),
    )


def _create(open_clip: Any, architecture: str, pretrained: str | None) -> Any:
    if pretrained:
        logger.warning("open_clip's weights %s of %s come from its hub, once, into its cache", pretrained, architecture)
    try:
        return open_clip.create_model(architecture, pretrained=pretrained)
    except Exception as error:  # whatever a hub's client raises
        raise SubjectError(
            f"open_clip's weights '{pretrained}' of {architecture} could not be had ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}). Download them elsewhere and pass the file: weights=FILE."
        ) from error
