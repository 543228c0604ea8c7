"""The names of colours.

Axes: C colours, H × W pixels.
"""

import functools

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

COLOURS = ("black", "white", "grey", "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown")
CHROMATIC = slice(3, None)
"""Of `COLOURS`, those that are no tones."""
_HUES = (("red", 16), ("orange", 42), ("yellow", 58), ("green", 165), ("blue", 258), ("purple", 295), ("pink", 340))
"""Where on the circle of 360 degrees each colour ends; after the last one it is red again."""
_LEVELS = 64
"""Of each channel that are told apart."""


def colours_of(pixels: UInt8[Tensor, "b 3 h w"]) -> Bool[Tensor, "b c h w"]:
    """Which of `COLOURS` each pixel has; it has one."""
    levels = (pixels // (256 // _LEVELS)).int()
    numbers = (levels[:, 0] * _LEVELS + levels[:, 1]) * _LEVELS + levels[:, 2]
    named = _named_levels(pixels.device)[numbers]
    return named[:, None] == torch.arange(len(COLOURS), dtype=torch.uint8, device=pixels.device)[:, None, None]


def saturation_and_value(
    pixels: UInt8[Tensor, "b 3 h w"],
) -> tuple[Float[Tensor, "b h w"], Float[Tensor, "b h w"]]:
    """How far colours are from grey and from black, from 0 to 1."""
    value = pixels.amax(1).float()
    return (value - pixels.amin(1)) / value.clamp(min=1), value / 255


@functools.cache
def _named_levels(device: torch.device) -> UInt8[Tensor, " levels"]:
    """The number in `COLOURS` of every colour there is, by the levels of its channels."""
    level = (torch.arange(_LEVELS) * (256 // _LEVELS) + 128 // _LEVELS).to(torch.uint8)
    every = torch.cartesian_prod(level, level, level).T[None, :, None]
    return _named(every).flatten().to(torch.uint8).to(device)


def _named(pixels: UInt8[Tensor, "b 3 h w"]) -> Int64[Tensor, "b h w"]:
    saturation, value = saturation_and_value(pixels)
    hue = _hue(pixels)
    named = torch.full(hue.shape, COLOURS.index("red"))
    start = 0
    for name, end in _HUES:
        named[(hue >= start) & (hue < end)] = COLOURS.index(name)
        start = end
    warm = (hue < 48) | (hue > 345)
    named[warm & (value < 0.72) & (saturation > 0.2) & ~((hue < 12) & (saturation > 0.65))] = COLOURS.index("brown")
    named[((hue > 340) | (hue < 12)) & (saturation < 0.5) & (value > 0.75)] = COLOURS.index("pink")
    plain = saturation < 0.16 + 0.1 * (1 - value)
    named[plain & (value > 0.82)] = COLOURS.index("white")
    named[plain & (value <= 0.82)] = COLOURS.index("grey")
    named[value < 0.22] = COLOURS.index("black")
    return named


def _hue(pixels: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b h w"]:
    """In degrees; 0 for greys."""
    red, green, blue = pixels.float().unbind(1)
    highest = pixels.float().amax(1)
    range_ = (highest - pixels.float().amin(1)).clamp(min=1)
    towards_blue = torch.where(highest == green, 2 + (blue - red) / range_, 4 + (red - green) / range_)
    return 60 * torch.where(highest == red, ((green - blue) / range_) % 6, towards_blue)
