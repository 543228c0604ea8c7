"""Photographs that people have annotated: what was said of which region."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from PIL import Image, ImageDraw

from mami_core.errors import DescriptionsError

_NUMBERS = ("1", "L", "P", "I;16", "I")
"""PIL's modes of pictures whose pixels are numbers as they stand; of others one would have to guess."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """What somebody said of a region of a photograph, or of all of it."""

    names: tuple[str, ...] = ()
    """What it shows, in the singular."""
    wordnet: str | None = None
    """The WordNet number of the first name's meaning, where it is known."""
    attributes: tuple[str, ...] = ()
    phrases: tuple[str, ...] = ()
    """Sentences or parts of them, as people wrote them."""
    mask: tuple[Path, int | None] | None = None
    """A grey picture of the photograph's size and the value that marks the region; none for any value above 0."""
    box: tuple[float, float, float, float] | None = None
    """Left, top, right, bottom in pixels."""
    polygons: tuple[tuple[float, ...], ...] = ()
    """x, y, x, y… in pixels."""
    part_of: str | None = None

    @property
    def is_placed(self) -> bool:
        """Whether it says where in the photograph it is true."""
        return self.mask is not None or self.box is not None or bool(self.polygons)

    def inside(self, width: int, height: int) -> Bool[np.ndarray, "height width"]:
        """The region's pixels in a photograph of this size; all of them where the annotation has no place."""
        if self.mask is not None:
            path, value = self.mask
            values = mask_values(path)
            found = values > 0 if value is None else values == value
            if found.shape == (height, width):
                return found
            return np.asarray(Image.fromarray(found).resize((width, height), Image.Resampling.NEAREST))
        canvas = Image.new("1", (width, height), 0 if self.is_placed else 1)
        draw = ImageDraw.Draw(canvas)
        for polygon in self.polygons:
            draw.polygon(polygon, fill=1)
        if self.box is not None and not self.polygons:
            draw.rectangle(self.box, fill=1)
        return np.asarray(canvas, bool)


def mask_values(mask: Path) -> np.ndarray:
    """The number of each pixel of a mask; 0 and 255 in one of black and white.

    Raises:
        DescriptionsError: it is no picture, a broken one, or one without numbers, such as one in colours.
    """
    try:
        with Image.open(mask) as picture:
            if picture.mode in _NUMBERS:
                return np.asarray(picture.convert("L") if picture.mode == "1" else picture)
            mode = picture.mode
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DescriptionsError(f"{mask}: expected a mask, but it cannot be decoded: {error}") from error
    raise DescriptionsError(
        f"{mask}: expected a mask of numbers (PIL's mode {', '.join(_NUMBERS)}), found mode {mode}."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Photograph:
    """A photograph with all that was said of it."""

    path: Path
    source: str
    """Where it comes from. Photographs of a source share a style, which must not be taken for what they show."""
    annotations: tuple[Annotation, ...]

    @property
    def name(self) -> str:
        """Its name wherever the source lies: "SOURCE/FILE"."""
        return f"{self.source}/{self.path.name}"

    def with_more(self, annotations: tuple[Annotation, ...]) -> "Photograph":
        """The photograph with what others said of it too."""
        return replace(self, annotations=self.annotations + annotations)


def words_said(phrases: Iterable[str], known: frozenset[str]) -> Iterator[str]:
    """The known names that occur in phrases, the longest at each place, in the singular or plural."""
    for phrase in phrases:
        words = "".join(letter if letter.isalnum() or letter in "-'" else " " for letter in phrase.lower()).split()
        at = 0
        while at < len(words):
            for length in (3, 2, 1):
                name = next((form for form in _forms(words[at : at + length]) if form in known), None)
                if name is not None:
                    yield name
                    at += length - 1
                    break
            at += 1


def _forms(words: list[str]) -> tuple[str, ...]:
    text = " ".join(words)
    return text, text.removesuffix("s"), text.removesuffix("es"), text.removesuffix("ies") + "y"
