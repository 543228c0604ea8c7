"""One picture of a neuron: its caption, the other captions, and its exemplars with their regions."""

import textwrap
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw, ImageFont

from mami_core.exemplars.picture import outlined

Shown = tuple[UInt8[np.ndarray, "side side 3"] | None, Bool[np.ndarray, "cells cells"], float, str]
"""A photograph, where the neuron is active, how high, and the image's name."""

_COLUMNS, _SIDE, _GAP = 5, 224, 12
_LARGE, _MIDDLE, _SMALL = 30, 18, 14
_BACK, _TEXT, _QUIET = (255, 255, 255), (28, 30, 33), (93, 98, 105)


def draw(title: str, caption: str, numbers: str, others: Sequence[str], exemplars: Sequence[Shown]) -> Image.Image:
    """The picture; as wide as five exemplars, as high as it takes."""
    width, small = _COLUMNS * (_SIDE + _GAP) + _GAP, ImageFont.load_default(_SMALL)
    text = [(f"{title}    {numbers}", _SMALL, _QUIET)]
    text += [(line, _LARGE, _TEXT) for line in textwrap.wrap(caption, 70) or [""]]
    text += [(line, _MIDDLE, _QUIET) for other in others for line in textwrap.wrap(other, 120)]
    top = _GAP + sum(int(size * 1.4) for _, size, _ in text) + _GAP
    rows = -(-len(exemplars) // _COLUMNS)
    picture = Image.new("RGB", (width, top + rows * (_SIDE + 20 + _GAP)), _BACK)
    pen, y = ImageDraw.Draw(picture), _GAP
    for line, size, colour in text:
        pen.text((_GAP, y), _printable(line), font=ImageFont.load_default(size), fill=colour)
        y += int(size * 1.4)
    for number, (photograph, region, activation, name) in enumerate(exemplars):
        row, column = divmod(number, _COLUMNS)
        x, y = _GAP + column * (_SIDE + _GAP), top + row * (_SIDE + 20 + _GAP)
        if photograph is None:
            pen.rectangle((x, y, x + _SIDE - 1, y + _SIDE - 1), outline=_QUIET)
            pen.text((x + _GAP, y + _SIDE // 2), "cannot be read any more", font=small, fill=_QUIET)
        else:
            picture.paste(Image.fromarray(outlined(photograph, region)), (x, y))
        shown = name if len(name) <= 26 else f"...{name[-24:]}"
        pen.text((x, y + _SIDE + 2), _printable(f"{activation:.3g}  {shown}"), font=small, fill=_QUIET)
    return picture


def _printable(text: str) -> str:
    """On one line, whatever it holds."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
