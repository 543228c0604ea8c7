"""What a generated neuron looks for: conditions on the things and grounds of scenes.

All things and grounds of all scenes are the rows of one table, so that a concept is matched against the whole world
with a few comparisons of small numbers.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int8, Int64

from mami_core.learning.generated.scenes import Ground, Scene, Thing

PARTS = ("edges", "tops", "bottoms", "left sides", "right sides", "middles", "surroundings")
"""Which part of a thing a neuron may look at instead of all of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Concept:
    """Conditions that all must hold; None stands for "any". Surface and tone are of the ground a thing stands on."""

    shape: str | None = None
    colour: str | None = None
    pattern: str | None = None
    second: str | None = None
    size: str | None = None
    direction: str | None = None
    place: str | None = None
    surface: str | None = None
    tone: str | None = None
    kind: str = "thing"
    """"thing", "ground", or "area" for both."""
    part: str | None = None

    @property
    def conditions(self) -> dict[str, str]:
        """The attributes that are asked for, with their values."""
        return {name: value for name in ATTRIBUTES if (value := getattr(self, name)) is not None}

    def without(self, attribute: str) -> "Concept":
        """The wider concept that does not ask for this attribute."""
        return dataclasses.replace(self, **{attribute: None})


ATTRIBUTES = ("shape", "colour", "pattern", "second", "size", "direction", "place", "surface", "tone")

Looks = tuple[Concept, ...]
"""What one neuron looks for: any of its concepts."""


class Row(NamedTuple):
    """One thing or ground of a scene."""

    scene: int
    owner: int
    """As in `Drawing.owner`."""
    extent: float
    """About the share of the picture that it fills."""
    kind: str
    values: dict[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class World:
    """The table of all things and grounds, sorted by scene."""

    rows: tuple[Row, ...]
    scenes: Int64[np.ndarray, " rows"]
    extents: Float64[np.ndarray, " rows"]
    codes: dict[str, Int8[np.ndarray, " rows"]]
    """For every attribute, and for the kind, a number a value; −1 where a row has no such attribute."""
    values: dict[str, tuple[str, ...]]

    @property
    def num_scenes(self) -> int:
        """How many scenes there are."""
        return int(self.scenes[-1]) + 1

    def matches(self, concept: Concept) -> Bool[np.ndarray, " rows"]:
        """The rows that meet every condition."""
        any_kind = np.ones(len(self.rows), dtype=bool)
        found = any_kind if concept.kind == "area" else self.codes["kind"] == self.values["kind"].index(concept.kind)
        for name, value in concept.conditions.items():
            known = self.values[name]
            found &= self.codes[name] == (known.index(value) if value in known else len(known))
        return found

    def owners(self, scene: int, concept: Concept) -> list[int]:
        """Of one scene, what meets every condition, as `Drawing.owner` numbers it."""
        first, end = np.searchsorted(self.scenes, [scene, scene + 1])
        return [row.owner for row in self.rows[first:end] if _meets(row, concept)]


def _meets(row: Row, concept: Concept) -> bool:
    fits = concept.kind in ("area", row.kind)
    return fits and all(row.values.get(name) == value for name, value in concept.conditions.items())


def world_of(scenes: Sequence[Scene]) -> World:
    """The table of everything in these scenes, which have the numbers 0, 1, 2 and so on."""
    rows = tuple(row for scene in scenes for row in _rows(scene))
    columns = {name: [row.values.get(name) for row in rows] for name in ATTRIBUTES}
    columns["kind"] = [row.kind for row in rows]
    values = {name: tuple(sorted({value for value in column if value})) for name, column in columns.items()}
    number = {name: {value: code for code, value in enumerate(known)} for name, known in values.items()}
    codes = {
        name: np.array([number[name].get(value or "", -1) for value in column], dtype=np.int8)
        for name, column in columns.items()
    }
    return World(rows, np.array([r.scene for r in rows]), np.array([r.extent for r in rows]), codes, values)


def _rows(scene: Scene) -> list[Row]:
    extents = (scene.horizon, 1 - scene.horizon)
    grounds = [
        Row(scene.number, -1 - number, extents[number], "ground", _ground_values(ground))
        for number, ground in enumerate(scene.grounds)
    ]
    things = [
        Row(scene.number, position, 3 * thing.radius**2, "thing", _thing_values(thing, scene.ground_at(thing.y)))
        for position, thing in enumerate(scene.things)
    ]
    return grounds + things


def _ground_values(ground: Ground) -> dict[str, str]:
    values = {"surface": ground.surface, "colour": ground.colour, "tone": ground.tone}
    if ground.surface in ("stripes", "checks", "dots"):
        values["second"] = ground.second
    return _told(values)


def _thing_values(thing: Thing, ground: Ground) -> dict[str, str]:
    """What could be said of a thing; nobody says "solid", or "medium", or names a second colour that is the first."""
    kind = thing.kind
    values = {
        "shape": kind.shape,
        "colour": kind.colour,
        "pattern": kind.pattern if kind.pattern != "solid" else "",
        "second": kind.second if kind.second != kind.colour else "",
        "size": thing.size if thing.size != "medium" else "",
        "direction": thing.direction or "",
        "place": thing.place,
        "surface": ground.surface,
        "tone": ground.tone,
    }
    return _told(values)


def _told(values: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in values.items() if value}
