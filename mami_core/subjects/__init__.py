"""Vision networks, and reading inside them."""

from mami_core.subjects.generators import generate, generator_of
from mami_core.subjects.latents import with_dictionary
from mami_core.subjects.layers import (
    Ends,
    LayerInfo,
    describe_layers,
    left_out,
    list_layers,
    match_layers,
    with_slices,
)
from mami_core.subjects.lean import lean
from mami_core.subjects.precision import Precision
from mami_core.subjects.reading.survey import Survey, remembering
from mami_core.subjects.reading.trace import Trace
from mami_core.subjects.registry import list_torchvision, load_subject
from mami_core.subjects.subject import Subject, subject_of

__all__ = [
    "Ends",
    "LayerInfo",
    "Precision",
    "Subject",
    "Survey",
    "Trace",
    "describe_layers",
    "generate",
    "generator_of",
    "lean",
    "left_out",
    "list_layers",
    "list_torchvision",
    "load_subject",
    "match_layers",
    "remembering",
    "subject_of",
    "with_dictionary",
    "with_slices",
]
