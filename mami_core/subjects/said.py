"""What of a subject is labelled and what is left out, in words."""

from collections.abc import Sequence

from mami_core.subjects.layers import (
    LayerInfo,
    describe_layers,
    ending_linearly,
    ending_unseen,
    inside_others,
    left_out,
    without_activation,
)
from mami_core.subjects.subject import Subject

_SHOWN = 40  # layers in a log; networks have hundreds
_FIRST = 3  # blocks in a line


def number_of(count: int, one: str) -> str:
    """`1 layer`, `1,024 layers`."""
    return f"{count:,} {one}{'' if count == 1 else 's'}"


def inventory(subject: Subject, layers: Sequence[str], patterns: Sequence[str] = ()) -> str:
    """Which layers are labelled, of what kind and how many units, and what cannot be read, and why.

    `patterns` are those that named the layers.
    """
    infos = {info.name: info for info in describe_layers(subject, layers)}
    total = sum(infos[layer].num_units for layer in layers)
    lines = [
        f"{subject.name}, weights {subject.weights_id}: {number_of(total, 'neuron')} in "
        f"{number_of(len(layers), 'layer')}",
        f"  {seen(subject)}",
        *(f"  {described(infos[layer])}" for layer in layers[:_SHOWN]),
    ]
    if len(layers) > _SHOWN:
        lines.append(f"  and {number_of(len(layers) - _SHOWN, 'more layer')}")
    lines += [f"  {line}" for line in advice(subject, layers, patterns)]
    lines += [f"  cannot be read: {reason}" for reason in left_out(subject)]
    return "\n".join(lines)


def advice(subject: Subject, layers: Sequence[str], patterns: Sequence[str] = ()) -> list[str]:
    """Which layers say the same twice or have units without axes of their own, and what to name in place of them."""
    lines = []
    if inside := len(inside_others(subject, layers)):
        lie = "lies" if inside == 1 else "lie"
        lines.append(
            f"{inside} of them {lie} inside others; --layers every-block names each block once, and "
            "--layers activations the units behind its last activation"
        )
    if linear := len(ending_linearly(subject, layers)):
        end = "ends" if linear == 1 else "end"
        lines.append(f"{linear} of them {end} in no activation; --layers activations names units behind one")
    kept = without_activation(subject, patterns)
    if kept:
        are, end = ("is a block", "it ends") if len(kept) == 1 else ("are blocks", "they end")
        lines.append(
            f"{len(kept)} of them {are} in which no last activation is sure (one that is called as a function is "
            f"not seen), read as {end}: {_first(kept)}"
        )
    if unseen := [layer for layer in ending_unseen(subject, layers) if layer not in kept]:
        seem = "seems" if len(unseen) == 1 else "seem"
        lines.append(
            f"{len(unseen)} of them {seem} to end in no activation: negative numbers come out, and none is seen inside "
            f"(one that is called as a function is not): {_first(unseen)}"
        )
    return lines


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:_FIRST]) + (f" and {len(names) - _FIRST} more" if len(names) > _FIRST else "")


def described(info: LayerInfo) -> str:
    """One layer in one line."""
    grid = f"on {info.map_size[0]} x {info.map_size[1]} places" if info.map_size else "one number an image"
    special = f", {number_of(info.num_special, 'special token')} left out" if info.num_special else ""
    clamp = ", read before its clamp" if info.saturates else ""
    units = "unit" if info.num_units == 1 else "units"
    some = f", from unit {info.first_unit:,} on" if info.first_unit else ""
    return f"{info.name:<40} {info.kind:<24} {info.num_units:>8,} {units} {grid}{special}{clamp}{some}"


def seen(subject: Subject) -> str:
    """What it sees of an image, or makes."""
    size = subject.size
    if subject.latent_shape:
        return f"makes {size.height} x {size.width} pixels from latents {list(subject.latent_shape)}"
    return (
        f"sees {size.height} x {size.width} pixels, the middle {subject.crop:.4g} of the short side, "
        f"{size.filter} resizing, (pixel - {_shown(subject.mean)}) / {_shown(subject.std)}"
    )


def _shown(channels: tuple[float, float, float]) -> str:
    return ", ".join(f"{value:.4g}" for value in (channels if len(set(channels)) > 1 else channels[:1]))
