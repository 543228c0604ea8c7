"""Vision networks, and reading inside them."""

from mami_core.subjects.layers import LayerInfo, list_layers, match_layers
from mami_core.subjects.lean import lean
from mami_core.subjects.precision import Precision
from mami_core.subjects.registry import list_torchvision, load_subject
from mami_core.subjects.subject import Subject, subject_of
from mami_core.subjects.trace import Trace

__all__ = [
    "LayerInfo",
    "Precision",
    "Subject",
    "Trace",
    "lean",
    "list_layers",
    "list_torchvision",
    "load_subject",
    "match_layers",
    "subject_of",
]
