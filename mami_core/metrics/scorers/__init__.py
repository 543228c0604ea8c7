"""Image–text scorers: how well an image fits a text. A scorer sees each image once and reads each text once.

::

    learned     the packaged scorer: EfficientNet-Lite2 and a sentence encoder, joined by a map learned from photographs
    conse       the same without the map: class probabilities × sentence embeddings of the class names
    clip        CLIP, SigLIP and their like, where this machine has one
"""

import importlib
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from mami_core.errors import ConfigError

LEARNED, CONSE, NONE = "learned", "conse", "none"
"""The names that need no folder: the packaged scorers, and none at all."""


@runtime_checkable
class Scorer(Protocol):
    """Fits images to texts: the score is the cosine of their vectors."""

    name: str
    """What the labels table says: the networks, and what identifies their weights."""
    input_size: int
    """Side of the square that it sees, in pixels."""
    crop: float
    """Side of the centred square that it sees, as a share of the image's short side."""

    def see(self, pixels: UInt8[Tensor, "b 3 s s"]) -> Float[Tensor, "b size"]:
        """A vector for each image."""
        ...

    def read(self, texts: Sequence[str]) -> Float[Tensor, "texts size"]:
        """A vector for each text."""
        ...

    def to(self, device: torch.device | str) -> "Scorer":
        """This scorer, on `device`."""
        ...


def load_scorer(name: str) -> Scorer:
    """A scorer that is on this machine, on the CPU; nothing is downloaded.

    Args:
        name: "learned", "conse"; a CLIP, SigLIP or OpenCLIP network in transformers' format: a local folder, or a name
            in this machine's cache of models; or "python:MODULE:FACTORY", a function without arguments that returns a
            `Scorer`.

    Raises:
        ConfigError: it is not on this machine, or is no image–text network.
        SubjectError: the packaged classifier is not installed.
    """
    if name == NONE:
        raise ConfigError("Scorer 'none' judges nothing: ask for no trust instead of loading it.")
    if name in (LEARNED, CONSE):
        from mami_core.metrics.scorers.packaged import load_packaged

        return load_packaged(learned=name == LEARNED)
    if name.startswith("python:"):
        return _made(name)
    from mami_core.metrics.scorers.clip import load_clip

    return load_clip(name)


def _made(name: str) -> Scorer:
    module, _, factory = name.removeprefix("python:").partition(":")
    try:
        scorer = getattr(importlib.import_module(module), factory)()
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"Scorer '{name}': expected python:MODULE:FACTORY that can be imported: {error}") from error
    if not isinstance(scorer, Scorer):
        raise ConfigError(f"Scorer '{name}' returned a {type(scorer).__name__}; expected a Scorer.")
    return scorer
