"""The names of colours.

Axes: C colours, H × W pixels.
"""

import functools

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from mami_core.features.looks.grid import sums_of_four

COLOURS = ("black", "white", "grey", "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown")
TONES = COLOURS[:3]
"""Of these, what is between dark and light and has no hue."""
_HUES = (("red", 16), ("orange", 42), ("yellow", 58), ("green", 165), ("blue", 258), ("purple", 295), ("pink", 340))
"""Where on the circle of 360 degrees each colour ends; after the last one it is red again."""
_BITS = 2
"""Of each channel that tell no colours apart."""
_LEVELS = 256 >> _BITS
_DIGIT = 5
"""Bits of a digit that counts pixels: all colours have one in one whole number."""


def colours_of_fours(pixels: UInt8[Tensor, "b 3 h w"]) -> UInt8[Tensor, "b c half_h half_w"]:
    """How many of every four pixels have each of `COLOURS`; each has one."""
    levels = (pixels >> _BITS).int()
    numbers = (levels[:, 0] * _LEVELS + levels[:, 1]) * _LEVELS + levels[:, 2]
    counts = sums_of_four(_ones_of_levels(pixels.device)[numbers])
    shifts = torch.arange(len(COLOURS), device=pixels.device)[:, None, None] * _DIGIT
    return (counts[:, None] >> shifts).to(torch.uint8) & (1 << _DIGIT) - 1


def saturation_and_value(
    pixels: UInt8[Tensor, "b 3 h w"],
) -> tuple[Float[Tensor, "b h w"], Float[Tensor, "b h w"]]:
    """How far colours are from grey and from black, from 0 to 1."""
    value = pixels.amax(1).float()
    return (value - pixels.amin(1)) / value.clamp(min=1), value / 255


@functools.cache
def _ones_of_levels(device: torch.device) -> Int64[Tensor, " levels"]:
    """For every colour there is, by the levels of its channels, a number with a 1 in the digit of its name."""
    level = (torch.arange(_LEVELS) << _BITS) + (1 << _BITS) // 2
    every = torch.cartesian_prod(level, level, level).T[None, :, None].to(torch.uint8)
    return (1 << _named(every).flatten() * _DIGIT).to(device)


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
