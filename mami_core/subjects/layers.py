"""The layers of a subject: what can be read, and what is meant by a name."""

import dataclasses
import fnmatch
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from mami_core.contracts import LOWEST
from mami_core.errors import SubjectError
from mami_core.subjects.activated import behind_activation
from mami_core.subjects.blocks import (
    activated_units,
    attention_heads,
    default_layers,
    every_block,
    hidden_units,
    require_steady,
    scores,
    unactivated,
)
from mami_core.subjects.names import nearest
from mami_core.subjects.reading.lenses import Heads
from mami_core.subjects.reading.survey import Observation, Survey, survey, through
from mami_core.subjects.reading.trace import canonical_names
from mami_core.subjects.subject import Subject

Ends = Literal["highest", "lowest", "both"]
"""Which ends of each unit's values exemplars are taken from; each end is a neuron of its own."""

PRESETS: dict[str, Callable[[nn.Module, Survey], tuple[str, ...]]] = {
    "every-block": every_block,
    "activations": activated_units,
    "mlp": hidden_units,
    "heads": attention_heads,
    "head": scores,
}
"""Words that stand for several layers."""


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
    first_unit: int = 0
    """The number of its first unit, where only some are read."""
    num_special: int = 0
    """Tokens that are left out because they are no place in the image."""


def list_layers(subject: Subject) -> list[LayerInfo]:
    """Every layer that can be read, in the network's order; a container comes before what it holds."""
    return describe_layers(subject, [name for name, seen in _layers(subject).items() if not seen.unreadable])


def describe_layers(subject: Subject, layers: Sequence[str]) -> list[LayerInfo]:
    """The layers of these names, as `match_layers` gives them."""
    modules, seen = dict(subject.network.named_modules()), _layers(subject)
    return [_described(subject, layer, seen[layer.removesuffix(LOWEST)], modules) for layer in layers]


def _described(subject: Subject, layer: str, seen: Observation, modules: dict[str, nn.Module]) -> LayerInfo:
    name = layer.removesuffix(LOWEST)
    first, end = subject.slices.get(layer, (0, seen.shape[1]))
    kind = "dictionary" if name in subject.dictionaries else type(modules[seen.place.module]).__name__
    return LayerInfo(
        name=layer,
        kind="attention heads" if isinstance(seen.lens, Heads) else kind,
        num_units=end - first,
        first_unit=first,
        map_size=(seen.shape[2], seen.shape[3]) if len(seen.shape) == 4 else None,
        saturates=seen.clamp is not None,
        num_special=seen.layout.sequence.num_special if seen.layout and seen.layout.sequence else 0,
    )


def _layers(subject: Subject) -> dict[str, Observation]:
    """The network's layers, and after each those that are read off it."""
    found: dict[str, Observation] = {}
    for name, seen in _survey(subject).observations.items():
        found[name] = seen
        for latents, dictionary in subject.dictionaries.items():
            if dictionary.layer == name:
                found[latents] = through(seen, dictionary)
    return found


def unreadable_layers(subject: Subject) -> dict[str, str]:
    """Every module that runs and cannot be read as units, and why; not those whose calls are layers of their own."""
    observations = _survey(subject).observations
    called = {name: seen.problem for name, seen in observations.items() if seen.calls and seen.problem}
    return {name: problem for name, problem in called.items() if f"{name}#1" not in observations}


def left_out(subject: Subject) -> list[str]:
    """Why modules that run cannot be read: each reason with the number of modules and the first of them."""
    reasons = unreadable_layers(subject)
    first = {reason: name for name, reason in reversed(reasons.items())}
    return [f"{count} × {reason} (first: {first[reason]})" for reason, count in Counter(reasons.values()).most_common()]


def inside_others(subject: Subject, layers: Sequence[str]) -> list[str]:
    """Those of `layers` that lie inside others of them."""
    found = _layers(subject)
    seen = {layer: found[layer.removesuffix(LOWEST)] for layer in layers}
    return [layer for layer in layers if any(other.holds(seen[layer]) for other in seen.values())]


def ending_linearly(subject: Subject, layers: Sequence[str]) -> list[str]:
    """Those of `layers` that end in no activation though there is one inside, which is none of `layers`.

    None of a transformer's blocks.
    """
    found = _survey(subject)
    plain = [name for name in (layer.removesuffix(LOWEST) for layer in layers) if name in found.observations]
    named = tuple(name for name in plain if found.observations[name].lens is None)
    behind = default_layers(subject.network, found, named)
    return [name for name, units in zip(named, behind, strict=True) if units not in plain]


def without_activation(subject: Subject, patterns: Sequence[str]) -> list[str]:
    """The blocks that "activations", where it is one of `patterns`, names as they are since it finds none to name."""
    if not any(_parted(pattern)[0].removesuffix(LOWEST) == "activations" for pattern in patterns):
        return []
    found = _survey(subject)
    return [
        block
        for block in every_block(subject.network, found)
        if found.observations[block].negative and not found.observations[block].activation
        if behind_activation(subject.network, found, block) == block
    ]


def ending_unseen(subject: Subject, layers: Sequence[str]) -> list[str]:
    """Those of `layers` that are blocks or ends of stages, and seem to end in no activation as none is seen inside."""
    found = _survey(subject)
    blocks = {*every_block(subject.network, found), *subject.stages}.intersection(found.observations)
    plain = dict.fromkeys(layer.removesuffix(LOWEST) for layer in layers)
    return list(unactivated(subject.network, found, tuple(name for name in plain if name in blocks)))


def match_layers(subject: Subject, patterns: Sequence[str], *, ends: Ends = "highest") -> tuple[str, ...]:
    """The layers that `patterns` name, in the network's order and each once; the default layers for no pattern.

    Args:
        subject: The subject.
        patterns: Layers' names; patterns where `*` stands for anything, dots included, and `[14]` for one of several
            characters; or one of `PRESETS`. A range of units at its end is for `with_slices`, and passed over here.
        ends: Which ends of the units; the lowest have names that end in ":lowest".

    Raises:
        SubjectError: a pattern that fits no layer, with the nearest names, or only such as cannot be read, with why;
            no pattern for a network that is not always the same.
    """
    if not patterns:
        require_steady(subject.network, _survey(subject))
        return _with_ends(tuple(subject.dictionaries) or subject.default_layers, ends)
    layers, canonical = _layers(subject), canonical_names(subject.network)
    chosen: set[str] = set()
    for pattern in patterns:
        whole, _ = _parted(pattern)
        lowest = LOWEST if whole.endswith(LOWEST) else ""
        name = whole.removesuffix(LOWEST)
        names = _named(subject, layers, canonical.get(name, name))
        if not names:
            raise SubjectError(f"{subject.name} has no layer '{pattern}'.{nearest(name, [*layers, *PRESETS])}")
        chosen.update(f"{each}{lowest}" for each in names)
    plain = _with_ends(tuple(name for name in layers if name in chosen), ends)
    return plain + tuple(f"{name}{LOWEST}" for name in layers if f"{name}{LOWEST}" in chosen.difference(plain))


def with_slices(subject: Subject, patterns: Sequence[str]) -> Subject:
    """The subject with only some units of those layers whose patterns end in a range, such as "layer4[0:256]".

    A range is for both ends of the units, unless a pattern of its own names the lowest ("layer4:lowest[256:512]").

    Raises:
        SubjectError: a range beyond the layer's units, or two of one layer.
    """
    slices: dict[str, tuple[int, int]] = {}
    for pattern in patterns:
        whole, some = _parted(pattern)
        if some is None:
            continue
        for info in describe_layers(subject, match_layers(subject, [whole])):
            first, end = some[0] or 0, info.num_units if some[1] is None else some[1]
            if not 0 <= first < end <= info.num_units:
                raise SubjectError(
                    f"'{pattern}': {info.name} has units 0 to {info.num_units - 1}, end {info.num_units}."
                )
            if slices.setdefault(info.name, (first, end)) != (first, end):
                raise SubjectError(f"'{pattern}': {info.name} has another range already. Give each layer one.")
    if not slices:
        return subject
    wholes = [whole for whole, _ in map(_parted, patterns) if whole.endswith(LOWEST)]
    named = set(match_layers(subject, wholes)) if wholes else set()
    lowest = {f"{name}{LOWEST}": some for name, some in slices.items() if not name.endswith(LOWEST)}
    implied = {name: some for name, some in lowest.items() if name not in named}
    return dataclasses.replace(subject, slices={**subject.slices, **implied, **slices})


_RANGE = re.compile(r"(.+)\[(\d*):(\d*)\]")


def _parted(pattern: str) -> tuple[str, tuple[int | None, int | None] | None]:
    """A pattern, and the range of units at its end."""
    found = _RANGE.fullmatch(pattern)
    if found is None:
        return pattern, None
    first, end = (int(number) if number else None for number in found.groups()[1:])
    return found[1], (first, end)


def _with_ends(layers: tuple[str, ...], ends: Ends) -> tuple[str, ...]:
    suffixes = {"highest": ("",), "lowest": (LOWEST,), "both": ("", LOWEST)}[ends]
    return tuple(f"{layer}{suffix}" for layer in layers for suffix in suffixes)


def _named(subject: Subject, layers: dict[str, Observation], pattern: str) -> tuple[str, ...]:
    """The readable layers that one pattern names; none where there is no layer of the name at all."""
    if pattern in PRESETS and pattern not in layers:
        names = PRESETS[pattern](subject.network, _survey(subject))
        if not names:
            raise SubjectError(f"{subject.name} has no layers that '{pattern}' stands for. Name the layers to read.")
        return names
    fitting = [name for name in layers if name == pattern or fnmatch.fnmatchcase(name, pattern)]
    readable = tuple(name for name in fitting if not layers[name].unreadable)
    if fitting and not readable:
        why = layers[fitting[0]].unreadable
        others = f" and {len(fitting) - 1} more that fit '{pattern}'" if len(fitting) > 1 else ""
        raise SubjectError(
            f"Layer '{fitting[0]}'{others} of {subject.name} cannot be read: {why}. "
            "Name the modules around it or inside it."
        )
    return readable


def _survey(subject: Subject) -> Survey:
    return survey(subject.network, subject.input_shape)
