"""Which neurons a generated world has, and which scenes drive each of them."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from mami_core.learning.generated.concepts import ATTRIBUTES, PARTS, Concept, Looks, Row, World
from mami_core.learning.generated.scenes import COLOURS, LONG, SHAPES

LAYERS = ("things", "parts", "grounds", "several", "unseen")
"""What the layers of the generated subject look for. "unseen": things of a colour and shape (say purple stars) that no
neuron of the other layers is about, so that a captioner trained on those has to put words together anew."""

_SHARES = {"things": 0.52, "parts": 0.14, "grounds": 0.12, "several": 0.22}
_WEIGHTS = {"shape": 3.0, "colour": 3.0, "pattern": 2.5, "size": 1.3, "place": 1.2, "second": 1.0}
_WEIGHTS |= {"surface": 0.8, "tone": 0.8, "direction": 0.7}
_NUM_CONDITIONS = {1: 0.06, 2: 0.18, 3: 0.26, 4: 0.27, 5: 0.23}
_FEWEST = 8
"""A concept that fewer scenes show is not taken."""
_NEAR_MISS = 0.06
"""Share of exemplars that lack one of the conditions, as real neurons' exemplars do."""


class Chosen(NamedTuple):
    """A neuron: its layer, what it looks for, and its exemplars."""

    layer: str
    looks: Looks
    scenes: tuple[int, ...]
    seen_as: tuple[Looks, ...]
    """What each exemplar shows: `looks`, or for a near miss something wider."""


def choose_neurons(world: World, seed: int, *, num_neurons: int, k: int, unseen: float) -> list[Chosen]:
    """Different neurons, each with at most `k` exemplars; fewer than asked for where the world has no more."""
    rng = np.random.default_rng((seed, 3))
    held_out = held_out_pairs(seed, unseen)
    known: set[Looks] = set()
    neurons: list[Chosen] = []
    for layer, looks in _proposals(world, rng, attempts=60 * num_neurons):
        order = tuple(sorted(looks, key=str))
        if order in known or not all(_is_shown(world, concept) for concept in looks):
            continue
        known.add(order)
        is_unseen = any((concept.colour, concept.shape) in held_out for concept in looks)
        scenes, seen_as = _exemplars(world, looks, rng, k)
        neurons.append(Chosen("unseen" if is_unseen else layer, looks, scenes, seen_as))
        if len(neurons) == num_neurons:
            break
    return neurons


def held_out_pairs(seed: int, share: float) -> frozenset[tuple[str, str]]:
    """The (colour, shape) pairs that only neurons of the layer "unseen" are about."""
    pairs = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    order = np.random.default_rng((seed, 4)).permutation(len(pairs))
    return frozenset(pairs[position] for position in order[: round(share * len(pairs))])


def _proposals(world: World, rng: np.random.Generator, attempts: int) -> Iterator[tuple[str, Looks]]:
    """Layers and looks at random; each concept is met by something, since it is read off one."""
    things = [row for row in world.rows if row.kind == "thing"]
    grounds = [row for row in world.rows if row.kind == "ground"]
    makers: dict[str, Callable[[], Looks]] = {
        "things": lambda: (_of_thing(_any_of(things, rng), rng),),
        "parts": lambda: (_part_of(_of_thing(_any_of(things, rng), rng, most=3), rng),),
        "grounds": lambda: (_of_ground(_any_of(grounds, rng), rng),),
        "several": lambda: _several(things, grounds, rng),
    }
    for layer in rng.choice(list(_SHARES), size=attempts, p=list(_SHARES.values())).tolist():
        yield layer, makers[layer]()


def _any_of(rows: Sequence[Row], rng: np.random.Generator) -> Row:
    return rows[int(rng.integers(len(rows)))]


def _of_thing(row: Row, rng: np.random.Generator, most: int = 5) -> Concept:
    """Some of a thing's attributes."""
    number = min(int(rng.choice(list(_NUM_CONDITIONS), p=list(_NUM_CONDITIONS.values()))), most)
    names = [name for name in ATTRIBUTES if name in row.values]
    weights = np.array([_WEIGHTS[name] for name in names])
    picked = rng.choice(names, size=min(number, len(names)), replace=False, p=weights / weights.sum()).tolist()
    values = {name: row.values[name] for name in picked}
    # Nobody would say these by themselves.
    if "pattern" not in values:
        values.pop("second", None)
    if values.get("shape") not in LONG:
        values.pop("direction", None)
    if "surface" in values:
        values.pop("tone", None)
    if not values.keys() - {"size", "place", "surface", "tone"}:
        values["colour"] = row.values["colour"]
    return Concept(**values)


def _part_of(concept: Concept, rng: np.random.Generator) -> Concept:
    return Concept(**concept.conditions, part=PARTS[rng.choice(len(PARTS), p=(0.34, *[0.11] * 6))])


def _of_ground(row: Row, rng: np.random.Generator) -> Concept:
    """A surface, with its colours or without; or everything of one colour or tone."""
    values, told = row.values, rng.random()
    if told < 0.2:
        return Concept(colour=values["colour"], kind="area")
    if told < 0.3 and "tone" in values:
        return Concept(tone=values["tone"], kind="ground")
    names = [name for name in ("surface", "colour", "second") if name in values][: int(rng.integers(1, 4))]
    part = "edges" if rng.random() < 0.15 else None
    return Concept(**{name: values[name] for name in names}, kind="ground", part=part)


def _several(things: Sequence[Row], grounds: Sequence[Row], rng: np.random.Generator) -> Looks:
    number = 2 if rng.random() < 0.65 else 3
    concepts = [
        _of_ground(_any_of(grounds, rng), rng) if rng.random() < 0.25 else _of_thing(_any_of(things, rng), rng, most=3)
        for _ in range(number)
    ]
    return tuple(dict.fromkeys(concepts))


def _is_shown(world: World, concept: Concept) -> bool:
    """Whether enough scenes show it, but not nearly all."""
    shown = len(np.unique(world.scenes[world.matches(concept)]))
    return _FEWEST <= shown <= 0.7 * world.num_scenes


def _exemplars(
    world: World, looks: Looks, rng: np.random.Generator, k: int
) -> tuple[tuple[int, ...], tuple[Looks, ...]]:
    """The scenes that drive the neuron highest: those with much of what it looks for, and with some luck."""
    strongest = [_strongest(world, concept, rng) for concept in looks]
    taken: dict[int, Looks] = {}
    for position in range(k):
        scenes = strongest[position % len(looks)]
        seen_as = looks
        if rng.random() < _NEAR_MISS and len(looks[0].conditions) > 1:
            seen_as = (looks[0].without(rng.choice(list(looks[0].conditions)).item()),)
            scenes = _strongest(world, seen_as[0], rng)
        free = next((scene for scene in scenes.tolist() if scene not in taken), None)
        if free is not None:
            taken[free] = seen_as
    return tuple(taken), tuple(taken.values())


def _strongest(world: World, concept: Concept, rng: np.random.Generator) -> Int64[np.ndarray, " scenes"]:
    """All scenes that show the concept, strongest first."""
    rows = np.flatnonzero(world.matches(concept))
    strength = 0.3 * np.log(world.extents[rows]) + rng.normal(0, 0.5, len(rows))
    return world.scenes[rows][np.argsort(-strength, kind="stable")]
