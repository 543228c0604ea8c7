"""How people put colours and looks together: "thin black vertical lines on white", "white spots", "red stripes".

A colour and a look found under the same regions are not one thing: a bright spot on blue is not blue. Spots and lines
have tones and colours of their own (`features.looks.COLOURED`); the colour of a region is what they lie on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from mami_core.captions.evidence import Phrase
from mami_core.features.forms import FORMS
from mami_core.features.looks import BOUNDARIES, COLOURS, SIDES, TONES

ADJECTIVES = {
    "fine textures": "finely textured",
    "coarse textures": "roughly textured",
    "faint textures": "faintly textured",
    "smooth areas": "plain",
    "soft shading": "softly shaded",
    "bright areas": "bright",
    "dark areas": "dark",
    "vivid colours": "vivid",
    "pale colours": "pale",
}
"""Looks that can be said of another thing: "plain green areas"."""
_ALONE = {"smooth areas": ("plain areas", "smooth areas"), "coarse textures": ("rough textures",)}
"""What looks are called where it is not their name."""
_SIZES, _TONES, _TURNS = ("thin", "thick", "large"), ("bright", "dark"), ("horizontal", "vertical", "diagonal")
_KINDS = {
    word: kind
    for kind, words in (("size", _SIZES), ("tone", _TONES), ("turn", _TURNS), ("colour", COLOURS))
    for word in words
}
_OF_FAMILIES = {"edges": "edges", "lines": "lines", "spots": "spots", "specks": "spots", "strips": "strips"}
_UTMOST = {"bright": "white", "dark": "black"}
"""A bright spot in white is white itself."""
_OUTLINES = "outlines on "
_WHOLE = ("white backgrounds", "many colours", *BOUNDARIES)
"""Looks with no colours of their own; what lies on both sides of a boundary has two."""
_OF_THINGS = " of things"


@dataclass(slots=True)
class _Family:
    """Edges, lines or spots of one neuron."""

    noun: str
    sizes: list[str] = field(default_factory=list)
    tones: list[str] = field(default_factory=list)
    colours: list[str] = field(default_factory=list)
    turns: list[str] = field(default_factory=list)
    rises: list[str] = field(default_factory=list)
    brighter: list[str] = field(default_factory=list)
    """Where lines rise to, and where edges are brighter."""

    def add(self, name: str) -> None:
        """Take in what another look's name says."""
        before, noun, after = _cut(name)
        self.noun = self.noun or noun
        for known, of_mine in ((_SIZES, self.sizes), (_TONES, self.tones), (COLOURS, self.colours)):
            of_mine += [word for word in before if word in known and word not in of_mine]
        self.turns += [word for word in before if word in _TURNS and word not in self.turns]
        if after:
            (self.brighter if after.startswith("brighter") else self.rises).append(after)

    def text(self, around: Sequence[str]) -> str:
        """What there is, on or between the colours around it."""
        tones = self.colours[:2] or sorted(self.tones)
        if self.noun == "strips":  # the region itself
            tones, around = list(around[:2]), ()
        around = [colour for colour in around if colour not in self.colours]
        if len(tones) == 1 and around and around[0] == _UTMOST.get(tones[0]):
            tones, around = [around[0]], around[1:]
        turns = sorted(self.turns[:2], key=_TURNS.index)
        size = self.sizes[0] if len(self.sizes) == 1 else ""
        words = [size, " and ".join(tones), " and ".join(turns), self.noun, self._side(turns)]
        return " ".join(word for word in words if word) + (self._around(around) if around else "")

    def _side(self, turns: Sequence[str]) -> str:
        """Where they rise to, or are brighter, if that is one way for all of them."""
        if "diagonal" in turns or not self.brighter:
            return self.rises[0] if len(set(self.rises)) == 1 else ""
        side = self.brighter[0] if len(set(self.brighter)) == 1 else ""
        lying = side in ("brighter above", "brighter below")
        return side if set(turns) <= {"horizontal" if lying else "vertical"} else ""

    def _around(self, around: Sequence[str]) -> str:
        if self.noun == "edges" and len(around) > 1:
            return f" between {around[0]} and {around[1]}"
        # What is white at an edge is mostly the background.
        return f" on {around[0]}" if self.noun != "edges" or around[0] in TONES else f" of {around[0]} things"


def seen(
    low: Sequence[str], colours: Sequence[str], rng: np.random.Generator, *, parts: int, often: bool = False
) -> str:
    """Words for what has no name.

    Args:
        low: Looks, the surest first.
        colours: Of the regions, the commonest first.
        rng: Chooses between words that mean the same.
        parts: 0 says the first thing, 1 what it is like, 2 also a second one.
        often: Whether the colours are true of about half of the regions only.
    """
    shapes = [name for name in low if name not in ADJECTIVES]
    surfaces = [name for name in low if name in ADJECTIVES]
    if not shapes:
        return _surface(surfaces, colours, rng, parts, often)
    groups: dict[str, list[str]] = {}
    for name in shapes if parts else shapes[:1]:
        groups.setdefault(family(name), []).append(name)
    first, *others = groups.values()
    told = _group(first, surfaces, [] if often or not parts else colours, parts)
    others = [names for names in others if names[0] not in FORMS]
    if parts < 2 or not others or shapes[0] in FORMS or told == "white backgrounds":
        return told
    return f"{told} and {_group(others[0], (), (), 1)}"


def said_of_look(name: str) -> tuple[Phrase, ...]:
    """Every phrase by which captions say a look: its name, and the parts of it that they put together with others'."""
    if name in ADJECTIVES:
        texts = dict.fromkeys((ADJECTIVES[name], name, *_ALONE.get(name, ())))
        return tuple(Phrase(text, "surface") for text in texts)
    if name.startswith(_OUTLINES):  # "outlines of red things on white backgrounds"
        outlines, ground = name.split(" ", 1)
        return Phrase(name, "look"), Phrase(outlines, "look"), Phrase(ground, "context")
    if name in BOUNDARIES:  # "tops of things", and of two sides "tops and left sides of things"
        return Phrase(name, "look"), Phrase(name.removesuffix(_OF_THINGS), "look")
    if family(name) == name:
        return (Phrase(name, "look"),)
    before, noun, after = _cut(name)
    looks = dict.fromkeys((name, noun, _OF_FAMILIES[noun]))
    sides = [Phrase(after, "side")] if after else []
    return (*(Phrase(text, "look") for text in looks), *(Phrase(word, _KINDS[word]) for word in before), *sides)


def family(name: str) -> str:
    """Edges, lines, spots, strips or sides; other looks are families of their own."""
    if name in SIDES:
        return "sides"
    if name in ("crossing lines", "specks"):
        return name
    return next((_OF_FAMILIES[word] for word in name.split() if word in _OF_FAMILIES), name)


def _group(names: Sequence[str], surfaces: Sequence[str], colours: Sequence[str], parts: int) -> str:
    """Looks of one family in one."""
    if names[0] in SIDES:
        return " and ".join(name.removesuffix(_OF_THINGS) for name in names[:2]) + _OF_THINGS
    if family(names[0]) == names[0]:
        return _pattern(names[0], surfaces, colours, parts)
    told = _Family("")
    for name in names:
        told.add(name)
    return told.text(colours)


def _surface(surfaces: Sequence[str], colours: Sequence[str], rng: np.random.Generator, parts: int, often: bool) -> str:
    """A surface and its colour: "green finely textured areas"."""
    if not colours:
        first = str(rng.choice(_ALONE.get(surfaces[0], (surfaces[0],))))
        more = ADJECTIVES[surfaces[1]] if parts > 1 and len(surfaces) > 1 else ""
        return f"{more} {first}" if more and not more.endswith("textured") else first
    words = ["often"] if often else []
    words += [ADJECTIVES[name] for name in surfaces[:1] if parts]
    words += [" and ".join(colours[:2] if parts and not often else colours[:1])]
    return " ".join([*words, "areas"])


def _pattern(first: str, surfaces: Sequence[str], colours: Sequence[str], parts: int) -> str:
    """Stripes, outlines, backgrounds: what is no edge, line or spot."""
    if first in _WHOLE or not parts:
        return first
    if first.startswith(_OUTLINES):
        ground = first.split()[2]
        things = [colour for colour in colours if colour != ground]
        return f"outlines of {things[0]} things on {ground} backgrounds" if things else first
    surfaces = () if first in FORMS else surfaces
    told = [*(ADJECTIVES[name] for name in surfaces[:1] if parts > 1), " and ".join(colours[:2]), first]
    return " ".join(word for word in told if word)


def _cut(name: str) -> tuple[list[str], str, str]:
    """What is before the noun, the noun, and what comes behind it."""
    words = name.split()
    at = next(i for i, word in enumerate(words) if word in _OF_FAMILIES)
    return words[:at], words[at], " ".join(words[at + 1 :])
