"""What the generated pictures show: things with attributes, on one or two grounds. Nothing is drawn here.

Every scene follows from (seed, number) alone, so any worker can make any scene without the others.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

COLOURS = {
    "red": (200, 38, 36),
    "orange": (240, 135, 28),
    "yellow": (244, 214, 50),
    "green": (58, 142, 58),
    "blue": (44, 88, 190),
    "purple": (122, 58, 150),
    "pink": (242, 146, 182),
    "brown": (118, 74, 40),
    "black": (24, 24, 26),
    "white": (242, 242, 240),
    "grey": (132, 134, 136),
    "tan": (208, 182, 140),
}
"""The colours that have a name, as 0–255 red, green, blue; what is drawn varies around them."""

BRIGHT = frozenset({"white", "yellow", "pink", "tan"})
DARK = frozenset({"black", "brown", "purple"})

SHAPES = ("circle", "ring", "square", "rectangle", "triangle", "star", "cross", "diamond", "oval", "heart", "pole")
SHAPES += ("flower", "leaf", "wheel", "letters", "net", "crescent", "eye")
PATTERNS = ("solid", "striped", "dotted", "checkered", "shiny", "fuzzy")
THIN = frozenset({"ring", "cross", "pole", "wheel", "letters", "net", "crescent", "eye"})
"""Shapes on which dots and checks could not be seen."""
LONG = frozenset({"pole", "rectangle", "oval", "leaf"})
"""Shapes with a direction."""
SIZES = {"small": (0.07, 0.095), "medium": (0.105, 0.14), "large": (0.16, 0.23)}
"""Radius as a share of the picture's side."""
DIRECTIONS = {"vertical": 0.0, "diagonal": math.pi / 4, "horizontal": math.pi / 2}
PLACES = ("top", "bottom", "left", "right", "centre")

_ANY = tuple(COLOURS)
SURFACES = {
    "plain": _ANY,
    "blurry": _ANY,
    "stripes": _ANY,
    "checks": _ANY,
    "dots": _ANY,
    "sky": ("blue", "blue", "grey", "orange"),
    "night": ("black",),
    "grass": ("green",),
    "leaves": ("green", "green", "orange"),
    "water": ("blue", "blue", "green"),
    "sand": ("tan",),
    "snow": ("white",),
    "brick": ("red", "brown"),
    "wood": ("brown", "tan"),
    "stone": ("grey",),
    "fur": ("brown", "grey", "white", "black", "orange"),
}
"""What a ground can be made of, with its possible colours (repeated ones are more frequent)."""
ABOVE = ("sky", "night", "plain", "leaves")
BELOW = ("grass", "water", "sand", "snow", "stone", "wood")


@dataclass(frozen=True, slots=True)
class Kind:
    """What a thing looks like wherever it stands."""

    shape: str
    colour: str
    pattern: str
    second: str
    """The colour of stripes, dots and checks; the same as `colour` where there are none."""


@dataclass(frozen=True, slots=True)
class Thing:
    """One thing in a scene. Lengths are shares of the picture's side, y grows downwards."""

    kind: Kind
    size: str
    direction: str | None
    x: float
    y: float
    radius: float
    angle: float
    """Turned clockwise by this, in radians."""

    @property
    def place(self) -> str:
        """Which part of the picture it is in."""
        dx, dy = self.x - 0.5, self.y - 0.5
        if max(abs(dx), abs(dy)) < 0.17:
            return "centre"
        if abs(dy) >= abs(dx):
            return "top" if dy < 0 else "bottom"
        return "left" if dx < 0 else "right"


@dataclass(frozen=True, slots=True)
class Ground:
    """What fills the picture behind the things, or the part of it above or below the horizon."""

    surface: str
    colour: str
    second: str
    angle: float

    @property
    def tone(self) -> str:
        """Whether it is "bright", "dark" or neither ("")."""
        if self.colour in BRIGHT or self.surface == "snow":
            return "bright"
        return "dark" if self.colour in DARK else ""


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything that one picture shows."""

    number: int
    grounds: tuple[Ground, ...]
    """One ground, or two: above and below the horizon."""
    horizon: float
    """Where the second ground begins, as a share of the picture's height; 1 where there is none."""
    things: tuple[Thing, ...]

    def ground_at(self, y: float) -> Ground:
        """The ground at a height."""
        return self.grounds[-1] if y >= self.horizon else self.grounds[0]


def kinds(seed: int, count: int) -> tuple[Kind, ...]:
    """The kinds of things in this world: all shapes and colours as often as one another."""
    rng = np.random.default_rng((seed, 0))
    shapes = [SHAPES[i % len(SHAPES)] for i in range(count)]
    colours = [name for _ in range(math.ceil(count / len(_ANY))) for name in rng.permutation(_ANY).tolist()]
    return tuple(_kind(rng, shape, colour) for shape, colour in zip(shapes, colours[:count], strict=True))


def scene(seed: int, number: int, world: Sequence[Kind]) -> Scene:
    """The scene of this number: its grounds, and three to seven things that hardly overlap."""
    rng = np.random.default_rng((seed, 1, number))
    grounds, horizon = _grounds(rng)
    things: list[Thing] = []
    wanted = int(rng.integers(4, 8))
    for _ in range(12 * wanted):
        thing = _thing(rng, world[int(rng.integers(len(world)))])
        behind = grounds[-1] if thing.y >= horizon else grounds[0]
        if thing.kind.colour != behind.colour and _is_free(thing, things):
            things.append(thing)
        if len(things) == wanted:
            break
    return Scene(number, grounds, horizon, tuple(things))


def _kind(rng: np.random.Generator, shape: str, colour: str) -> Kind:
    possible = ("solid", "striped") if shape in THIN else PATTERNS
    pattern = possible[0] if rng.random() < 0.3 else possible[rng.integers(1, len(possible))]
    two_coloured = pattern in ("striped", "dotted", "checkered")
    return Kind(shape, colour, pattern, _other(rng, colour) if two_coloured else colour)


def _other(rng: np.random.Generator, colour: str) -> str:
    """A second colour that can be told from the first; half of the time the plainest one."""
    if rng.random() < 0.5:
        return "black" if colour in BRIGHT else "white"
    close = {"red": "orange", "orange": "red", "purple": "blue", "blue": "purple", "tan": "white", "brown": "black"}
    others = [name for name in COLOURS if name not in (colour, close.get(colour))]
    return others[rng.integers(len(others))]


def _grounds(rng: np.random.Generator) -> tuple[tuple[Ground, ...], float]:
    if rng.random() < 0.3:
        return (_ground(rng, ABOVE), _ground(rng, BELOW)), float(rng.uniform(0.35, 0.65))
    return (_ground(rng, tuple(SURFACES)),), 1.0


def _ground(rng: np.random.Generator, surfaces: Sequence[str]) -> Ground:
    surface = surfaces[int(rng.integers(len(surfaces)))]
    colour = SURFACES[surface][rng.integers(len(SURFACES[surface]))]
    return Ground(surface, colour, _other(rng, colour), float(rng.uniform(0, math.pi)))


def _thing(rng: np.random.Generator, kind: Kind) -> Thing:
    size = ("small", "medium", "large")[rng.choice(3, p=(0.3, 0.35, 0.35))]
    radius = float(rng.uniform(*SIZES[size])) * (1.4 if kind.shape == "pole" else 1)
    direction = tuple(DIRECTIONS)[rng.integers(3)] if kind.shape in LONG else None
    turned = DIRECTIONS[direction] if direction else 0.0
    x, y = rng.uniform(0.7 * radius, 1 - 0.7 * radius, size=2).tolist()
    return Thing(kind, size, direction, x, y, radius, turned + float(rng.normal(0, 0.12)))


def _is_free(thing: Thing, others: Sequence[Thing]) -> bool:
    return all(math.hypot(thing.x - o.x, thing.y - o.y) > 0.92 * (thing.radius + o.radius) for o in others)
