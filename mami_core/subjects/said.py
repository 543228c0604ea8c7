"""What of a subject is labelled and what is left out, in words."""

from collections.abc import Sequence

from mami_core.subjects.layers import (
    LayerInfo,
    describe_layers,
    ending_linearly,
    inside_others,
    left_out,
    without_activation,
)
from mami_core.subjects.subject import Subject

_SHOWN = 40  # layers in a log; networks have hundreds
_FIRST = 3  # blocks in a line


def inventory(subject: Subject, layers: Sequence[str], patterns: Sequence[str] = ()) -> str:
    """Which layers are labelled, of what kind and how many units, and what cannot be read, and why.

    `patterns` are those that named the layers.
    """
    infos = {info.name: info for info in describe_layers(subject, layers)}
    total = sum(infos[layer].num_units for layer in layers)
    lines = [
        f"{subject.name}, weights {subject.weights_id}: {total:,} neurons in {len(layers)} layers",
        f"  {seen(subject)}",
        *(f"  {described(infos[layer])}" for layer in layers[:_SHOWN]),
    ]
    if len(layers) > _SHOWN:
        lines.append(f"  and {len(layers) - _SHOWN} more layers")
    lines += [f"  {line}" for line in advice(subject, layers, patterns)]
    lines += [f"  cannot be read: {reason}" for reason in left_out(subject)]
    return "\n".join(lines)


def advice(subject: Subject, layers: Sequence[str], patterns: Sequence[str] = ()) -> list[str]:
    """Which layers say the same twice or have units without axes of their own, and what to name in place of them."""
    lines = []
    if inside := len(inside_others(subject, layers)):
        lines.append(
            f"{inside} of them lie inside others; --layers every-block names each block once, and "
            "--layers activations the units behind its last activation"
        )
    if linear := len(ending_linearly(subject, layers)):
        lines.append(f"{linear} of them end in no activation; --layers activations names units behind one")
    if kept := without_activation(subject, patterns):
        more = f" and {len(kept) - _FIRST} more" if len(kept) > _FIRST else ""
        lines.append(
            f"{len(kept)} of them are blocks in which no last activation is sure (one that is called as a function is "
            f"not seen), read as they end: {', '.join(kept[:_FIRST])}{more}"
        )
    return lines


def described(info: LayerInfo) -> str:
    """One layer in one line."""
    grid = f"on {info.map_size[0]} x {info.map_size[1]} places" if info.map_size else "one number an image"
    special = f", {info.num_special} special tokens left out" if info.num_special else ""
    clamp = ", read before its clamp" if info.saturates else ""
    some = f", from unit {info.first_unit:,} on" if info.first_unit else ""
    return f"{info.name:<40} {info.kind:<24} {info.num_units:>8,} units {grid}{special}{clamp}{some}"


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
