"""The method: images → activations → exemplars → features → captions → labels. Pure PyTorch, no cluster.

What most people need has its name here, and is imported when it is first used: to read a labels table takes no torch.

::

    load_subject, list_layers, Subject     a vision network, and the layers whose units can be labelled
    list_images, LocalFiles                the images, wherever they are
    load_captioner, Trained                a trained captioner, from its folder
    label, LabelConfig, Labelled           the whole path, in this process
    caption                                features → captions alone
    SearchConfig, DecodeConfig             how exemplars are found, and how captions are chosen
    EncoderConfig, CaptionerConfig         which network describes exemplars, and the captioner's shape
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mami_core.captions.captioner import CaptionerConfig
    from mami_core.captions.decode import DecodeConfig, caption
    from mami_core.exemplars.search import SearchConfig
    from mami_core.features import EncoderConfig
    from mami_core.images import LocalFiles, list_images
    from mami_core.learning.checkpoint import Trained
    from mami_core.learning.checkpoint import load as load_captioner
    from mami_core.pipeline import LabelConfig, Labelled, label
    from mami_core.subjects import Subject, list_layers, load_subject

__all__ = [
    "CaptionerConfig",
    "DecodeConfig",
    "EncoderConfig",
    "LabelConfig",
    "Labelled",
    "LocalFiles",
    "SearchConfig",
    "Subject",
    "Trained",
    "caption",
    "label",
    "list_images",
    "list_layers",
    "load_captioner",
    "load_subject",
]

_WHERE = {
    "CaptionerConfig": "captions.captioner",
    "DecodeConfig": "captions.decode",
    "EncoderConfig": "features",
    "LabelConfig": "pipeline",
    "Labelled": "pipeline",
    "LocalFiles": "images",
    "SearchConfig": "exemplars.search",
    "Subject": "subjects",
    "Trained": "learning.checkpoint",
    "caption": "captions.decode",
    "label": "pipeline",
    "list_images": "images",
    "list_layers": "subjects",
    "load_captioner": "learning.checkpoint:load",
    "load_subject": "subjects",
}
"""The module of each public name, and its name there where that is another."""


def __getattr__(name: str) -> Any:
    """A public name, imported now."""
    if name not in _WHERE:
        raise AttributeError(f"module 'mami_core' has no attribute {name!r}")
    module, _, original = _WHERE[name].partition(":")
    return getattr(import_module(f"mami_core.{module}"), original or name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
