"""From what a neuron's exemplars share to what people would say of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

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
_PLACES_ALONE = {"left": "the left side of pictures", "right": "the right side of pictures"}
_ADJECTIVES = {
    "fine textures": "finely textured",
    "coarse textures": "roughly textured",
    "smooth areas": "plain",
    "bright areas": "bright",
    "dark areas": "dark",
}
"""Looks that can be said of another thing: "plain green areas"."""
_ALONE = {
    "smooth areas": ("plain areas", "smooth areas"),
    "fine textures": ("fine textures",),
    "coarse textures": ("rough textures",),
    "bright areas": ("bright areas",),
    "dark areas": ("dark areas",),
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
    """Of `pixels.LOOKS`."""
    context: tuple[str, ...] = ()
    """What else the photographs show: of `CONTEXTS`, or things that are near."""
    place: str | None = None
    mixed: tuple[str, ...] = field(default=())
    """Names of single things among the exemplars: "such as …"."""

    def __bool__(self) -> bool:
        return bool(self.nouns or self.colours or self.low or self.place)


def describe(finding: Finding, rng: np.random.Generator, *, detail: float) -> str:
    """One person's words for a neuron, saying each thing beyond the first with probability `detail`."""
    tell = lambda: rng.random() < detail  # noqa: E731
    if finding.place and not (finding.nouns or finding.colours or finding.low):
        return _PLACES_ALONE.get(finding.place, f"the {finding.place} of pictures")
    text = (_named if finding.nouns else _seen)(finding, rng, detail)
    if finding.context and tell():
        near = finding.context[0]
        text += f" {_CONTEXT.get(near, f'near {near}')}"
    if finding.place is not None and tell():
        text += f" {rng.choice(_PLACES[finding.place])}"
    return text


_DETAILS = (0.2, 0.6, 1.0)
"""How much different people tell."""


def descriptions(finding: Finding, rng: np.random.Generator, *, count: int = 3) -> tuple[str, ...]:
    """What up to `count` people would say of a neuron, from short to long; each once, at least one."""
    told = [describe(finding, rng, detail=detail) for detail in _DETAILS]
    return tuple(dict.fromkeys(told))[:count]


def _named(finding: Finding, rng: np.random.Generator, detail: float) -> str:
    nouns = list(finding.nouns)
    text = nouns[0]
    if finding.colours and rng.random() < detail:
        text = f"{_listed(finding.colours[:2]) if rng.random() < 0.5 else finding.colours[0]} {text}"
    if len(nouns) > 1 and rng.random() < 0.35 + 0.65 * detail:
        number = 3 if len(nouns) > 2 and rng.random() < detail else 2
        text = _listed([text, *nouns[1:number]])
    elif finding.wider is not None and rng.random() < 0.3 + 0.6 * detail:
        text = finding.wider if rng.random() < 0.25 else f"{text} and other {finding.wider}"
    if finding.mixed and rng.random() < 0.5 * detail:
        text += f" such as {_listed(finding.mixed[:2])}"
    return text


def _seen(finding: Finding, rng: np.random.Generator, detail: float) -> str:
    """Words for what has no name: colours, edges, brightness. A colour goes with every texture that has one."""
    tell = lambda: rng.random() < 0.3 + 0.7 * detail  # noqa: E731
    shapes = [name for name in finding.low if name not in _ADJECTIVES]
    surfaces = [name for name in finding.low if name in _ADJECTIVES]
    if shapes:
        text = _both(shapes[0], shapes[1]) if len(shapes) > 1 and tell() else shapes[0]
    elif finding.colours:
        text = str(rng.choice(["areas", "areas", "things"]))
    else:
        text = str(rng.choice(_ALONE[surfaces[0]]))
    if text == "white backgrounds":
        return text
    if surfaces and tell() and (shapes or finding.colours) and not text.endswith("spots"):
        text = _surfaced(text, surfaces, rng)
    if finding.colours and (not shapes or tell()):
        text = f"{_listed(finding.colours[:2]) if tell() else finding.colours[0]} {text}"
    return text


def _surfaced(text: str, surfaces: Sequence[str], rng: np.random.Generator) -> str:
    """A thing without a name, with what its surface is like."""
    if text == "areas" and "textures" in surfaces[0] and rng.random() < 0.5:
        return str(rng.choice(_ALONE[surfaces[0]]))
    return f"{_ADJECTIVES[surfaces[0]]} {text}"


def _both(one: str, other: str) -> str:
    """Two shapes in one: "horizontal and vertical edges"; always in one order, the slanted one last."""
    one, other = sorted((one, other), key=lambda name: (name.startswith("diagonal"), name))
    (first, kind), (_, other_kind) = (_unslanted(name).rpartition(" ")[::2] for name in (one, other))
    if _unslanted(one) == _unslanted(other):
        return _unslanted(one)
    return f"{first} and {other}" if kind == other_kind else f"{one} and {other}"


def _unslanted(name: str) -> str:
    """Without the side that lines rise to."""
    return name.split(" rising")[0].split(" falling")[0]


def _listed(words: Sequence[str]) -> str:
    """One text: "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


class Words:
    """The words of a set of photographs, by number, and which of them are kinds of which."""

    def __init__(self, words: Sequence[Word], present: Float[np.ndarray, "photographs words"]) -> None:
        """Learn from where words occur together.

        A word is wider than another if nearly all photographs of the other have it as well, and more do.
        """
        self.words = tuple(words)
        self.numbers = {word: number for number, word in enumerate(self.words)}
        shown = (present > 0).astype(np.float32)
        counts = shown.sum(0)
        both = shown.T @ shown
        within = both >= 0.9 * counts[:, None]
        self.wider = within & (counts[None, :] > counts[:, None])
        """[narrow, wide]"""
        self.kin = self.wider | self.wider.T | (both > 0.6 * np.minimum(counts[:, None], counts[None, :]))
        np.fill_diagonal(self.kin, True)
