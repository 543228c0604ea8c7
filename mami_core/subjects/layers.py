"""The layers of a subject: what can be read, and what is meant by a name."""

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass

from mami_core.errors import SubjectError
from mami_core.subjects.names import nearest
from mami_core.subjects.subject import Subject
from mami_core.subjects.survey import survey_blank


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerInfo:
    """A layer whose units can be read."""

    name: str
    kind: str
    """The module's class."""
    num_units: int
    map_size: tuple[int, int] | None
    """Height and width of a unit's activation map; None for a vector, whose units are one number an image."""
    saturates: bool
    """Whether it ends in an operation with a highest value; it is then read before that operation."""


def list_layers(subject: Subject) -> list[LayerInfo]:
    """Every layer that can be read, in the network's order; a container comes before what it holds."""
    modules = dict(subject.network.named_modules())
    return [
        LayerInfo(
            name=name,
            kind=type(modules[name]).__name__,
            num_units=seen.shape[1],
            map_size=(seen.shape[2], seen.shape[3]) if len(seen.shape) == 4 else None,
            saturates=seen.clamp is not None,
        )
        for name, seen in survey_blank(subject.network, subject.input_size).items()
        if not seen.unreadable
    ]


def match_layers(subject: Subject, patterns: Sequence[str]) -> tuple[str, ...]:
    """The layers that `patterns` name, in the network's order and each once; the default layers for no pattern.

    Args:
        subject: The subject.
        patterns: Layers' names, or patterns where `*` stands for anything, dots included, and `[14]` for one of
            several characters.

    Raises:
        SubjectError: a pattern that fits no layer, with the nearest names, or names one that cannot be read.
    """
    if not patterns:
        return subject.default_layers
    observations = survey_blank(subject.network, subject.input_size)
    readable = [name for name, seen in observations.items() if not seen.unreadable]
    chosen: set[str] = set()
    for pattern in patterns:
        found = [name for name in readable if name == pattern or fnmatch.fnmatchcase(name, pattern)]
        if not found and pattern in observations:
            raise SubjectError(
                f"Layer '{pattern}' of {subject.name} cannot be read: {observations[pattern].unreadable}. "
                "Name the modules around it or inside it."
            )
        if not found:
            raise SubjectError(f"{subject.name} has no layer '{pattern}'.{nearest(pattern, readable)}")
        chosen.update(found)
    return tuple(name for name in readable if name in chosen)
