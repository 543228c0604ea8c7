"""From what a neuron's exemplars share to what people would say of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

from mami_core.captions.evidence import Phrase
from mami_core.learning.dissected.looks import said_of_look, seen
from mami_core.learning.dissected.words import Word

NOUNS = ("thing", "part", "look", "stuff", "scene", "material")

_CONTEXT = {
    "grass": "on grass",
    "water": "in water",
    "snow": "in snow",
    "sand": "on sand",
    "sky": "against the sky",
    "trees": "among trees",
    "roads": "on roads",
    "rooms": "in rooms",
    "kitchens": "in kitchens",
    "bathrooms": "in bathrooms",
    "bedrooms": "in bedrooms",
    "city streets": "in streets",
    "landscapes": "in landscapes",
    "people": "with people",
    "white backgrounds": "on white backgrounds",
    "buildings": "near buildings",
    "rocks": "on rocks",
    "outdoor scenes": "outdoors",
    "indoor scenes": "indoors",
}
CONTEXTS = tuple(_CONTEXT)
_PLACES: Mapping[str, tuple[str, ...]] = {
    "top": ("at the top of the picture", "in the upper part of pictures"),
    "bottom": ("at the bottom of the picture", "in the lower part of pictures"),
    "left": ("on the left of the picture",),
    "right": ("on the right of the picture",),
    "centre": ("in the centre of the picture",),
    "borders": ("along the borders of the picture",),
    "corners": ("in the corners of the picture",),
}
_PLACES_ALONE = {
    "left": "the left side of pictures",
    "right": "the right side of pictures",
    **{place: f"the {place} of pictures" for place in ("top", "bottom", "centre", "borders", "corners")},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What was found of a neuron, the strongest first in every list. Any list may be empty, all of them not."""

    nouns: tuple[str, ...] = ()
    """What its regions show; a later noun shows what earlier ones leave out."""
    wider: str | None = None
    """A word for the first noun and more."""
    colours: tuple[str, ...] = ()
    low: tuple[str, ...] = ()
    """Of `features.looks.LOOKS`."""
    context: tuple[str, ...] = ()
    """What else the photographs show: of `CONTEXTS`, or things that are near."""
    place: str | None = None
    often: frozenset[str] = frozenset()
    """Colours and contexts that are true of no more than about half of the exemplars."""

    def __bool__(self) -> bool:
        return bool(self.nouns or self.colours or self.low or self.place)


Detail = Literal["short", "middle", "long"]


def describe(finding: Finding, rng: np.random.Generator, *, detail: Detail) -> str:
    """One person's words for a neuron: the first thing, that with what it is like, or all that was found."""
    if finding.place and not (finding.nouns or finding.colours or finding.low):
        text = _PLACES_ALONE[finding.place]
        return text + (_around(finding, text) if detail == "long" else "")
    if finding.nouns:
        text = _named(finding, rng, detail)
    else:
        often = bool(finding.colours) and finding.colours[0] in finding.often
        text = seen(finding.low, finding.colours, rng, parts={"short": 0, "middle": 1, "long": 2}[detail], often=often)
    tells = lambda: detail == "long" or (detail == "middle" and rng.random() < _TOLD_EARLY)  # noqa: E731
    if tells():
        text += "" if text.endswith(" backgrounds") else _around(finding, text)
    if finding.place is not None and tells():
        text += f" {rng.choice(_PLACES[finding.place])}"
    return text


_SHORT, _TOLD_EARLY = 0.6, 0.3
"""How many people say only the first thing where there is more to say; and how many name surroundings or a place in few
words."""


def descriptions(finding: Finding, rng: np.random.Generator, *, count: int = 3) -> tuple[str, ...]:
    """What up to `count` people would say of a neuron, from short to long; each once, at least one."""
    told = [describe(finding, rng, detail=detail) for detail in get_args(Detail)]
    if told[0] != told[-1] and rng.random() >= _SHORT:
        told = told[1:]
    return tuple(dict.fromkeys(told))[-count:]


def around(name: str) -> str:
    """How a context is said, of `CONTEXTS` or a thing that is near."""
    return _CONTEXT.get(name, f"near {name}")


def said(word: Word) -> tuple[Phrase, ...]:
    """Every phrase by which captions say a word. Of phrases of one kind a caption claims that one is true."""
    if word.kind in NOUNS:
        return (Phrase(word.text, "noun"),)
    if word.kind == "place":
        return tuple(Phrase(text, "place") for text in (*_PLACES[word.text], _PLACES_ALONE[word.text]))
    return (Phrase(word.text, "colour"),) if word.kind == "colour" else said_of_look(word.text)


def _around(finding: Finding, text: str) -> str:
    """The first context that the text does not speak of itself."""
    near = next((name for name in finding.context if name not in text), None)
    if near is None:
        return ""
    return f"{' often' if near in finding.often else ''} {around(near)}"


def _named(finding: Finding, rng: np.random.Generator, detail: Detail) -> str:
    """Words for things. What few words tell beside the first noun is a matter of taste."""
    first, *others = finding.nouns
    if detail == "short":
        return finding.wider if finding.wider is not None and rng.random() < 0.2 else first
    full = detail == "long"
    tinted = bool(finding.colours) and (full or rng.random() < 0.6)
    text = first
    if tinted:
        number = 2 if full and finding.colours[0] not in finding.often else 1
        often = "often " if finding.colours[0] in finding.often else ""
        text = f"{often}{_listed(finding.colours[:number])} {first}"
    if others:
        text = _listed([text, *others[: 2 if full else 1]])
    elif finding.wider is not None and first not in finding.wider and (full or not tinted):
        text = f"{text} and other {finding.wider}"
    if finding.low and full:
        text += f" with {seen(finding.low[:2], (), rng, parts=1)}"
    return text


def _listed(words: Sequence[str]) -> str:
    """One text: "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


_WITHIN = 0.9
"""Share of its photographs in which a word must lie within a wider one."""


class Words:
    """The words of a set of photographs, by number, and which of them are kinds of which."""

    def __init__(self, words: Sequence[Word], areas: Float[np.ndarray, "photographs words"]) -> None:
        """Learn from where words occur together.

        A word is wider than another if it is true wherever the other is, and of more photographs.
        """
        self.words = tuple(words)
        self.numbers = {word: number for number, word in enumerate(self.words)}
        self.texts = np.array([word.text for word in self.words])
        colours = [Word(word.text.split()[0], "colour") if word.kind == "low" else None for word in self.words]
        self.tint = np.array([-1 if colour is None else self.numbers.get(colour, -1) for colour in colours], np.int64)
        """For each look, the colour that its name begins with; −1 for others."""
        shown = (areas > 0).astype(np.float32)
        counts = shown.sum(0)
        both = shown.T @ shown
        within = (both >= _WITHIN * counts[:, None]) & (counts > 0)[:, None]
        for number in np.flatnonzero(within.sum(1) > 1):
            of_word = areas[areas[:, number] > 0]
            # What only lies in the same photographs covers more of some and less of others.
            within[number] &= (of_word >= 0.9 * of_word[:, [number]]).mean(0) >= _WITHIN
        self.wider = within & (counts[None, :] > counts[:, None])
        """[narrow, wide]"""
        self.kin = self.wider | self.wider.T | (both > 0.6 * np.minimum(counts[:, None], counts[None, :]))
        np.fill_diagonal(self.kin, True)
