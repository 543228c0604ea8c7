"""Concepts → what people would say of them, in words that are as useful for real photographs."""

from collections.abc import Sequence

import numpy as np

from mami_core.learning.generated.concepts import Concept, Looks

# Several ways to say it, the usual one first.
_NOUNS = {
    "circle": ("circles", "balls", "round objects"),
    "ring": ("rings", "hoops"),
    "square": ("squares", "boxes", "square objects"),
    "rectangle": ("rectangles", "rectangular objects"),
    "triangle": ("triangles", "triangular shapes"),
    "star": ("stars", "star shapes"),
    "cross": ("crosses", "plus signs"),
    "diamond": ("diamonds", "diamond shapes"),
    "oval": ("ovals", "oval objects"),
    "heart": ("hearts", "heart shapes"),
    "pole": ("poles", "sticks", "long thin objects"),
    "flower": ("flowers", "petals"),
    "leaf": ("leaves", "pointed leaves"),
    "wheel": ("wheels", "round wheels"),
    "letters": ("letters", "text", "words and letters"),
    "net": ("grids", "nets", "fences"),
    "crescent": ("crescents", "curved shapes"),
    "eye": ("eyes", "animal eyes"),
}
_ANYTHING = ("objects", "things", "shapes")
_SIZES = {"small": ("small", "tiny", "little"), "large": ("large", "big")}
_PATTERNS = {
    "striped": ("striped",),
    "dotted": ("spotted", "dotted"),
    "checkered": ("checkered",),
    "shiny": ("shiny",),
    "fuzzy": ("fuzzy", "furry", "rough"),
}
_MARKS = {
    "striped": ("stripes", "lines"),
    "dotted": ("dots", "spots"),
    "checkered": ("checks", "checkered patterns"),
}
_PLACES = {
    "top": ("at the top of pictures", "in the upper part of images", "near the top"),
    "bottom": ("at the bottom of pictures", "in the lower part of images", "near the bottom"),
    "left": ("on the left side of pictures", "on the left"),
    "right": ("on the right side of pictures", "on the right"),
    "centre": ("in the center of pictures", "in the middle of images"),
}
_GROUNDS = {
    "plain": ("plain backgrounds", "plain walls"),
    "blurry": ("blurry backgrounds", "blurry areas"),
    "stripes": ("striped patterns", "striped fabric", "lines"),
    "checks": ("checkered patterns", "checkered cloth", "tiles"),
    "dots": ("dotted patterns", "spotted fabric", "dots"),
    "sky": ("sky", "the sky"),
    "night": ("night sky", "dark sky with lights"),
    "grass": ("grass", "grassy areas"),
    "leaves": ("leaves", "foliage", "plants"),
    "water": ("water", "waves", "the ocean"),
    "sand": ("sand", "the beach", "sandy ground"),
    "snow": ("snow", "white snow"),
    "brick": ("brick walls", "bricks"),
    "wood": ("wooden surfaces", "wood grain", "wood"),
    "stone": ("stone", "rocks", "rough stone"),
    "fur": ("fur", "animal fur", "hair"),
}
_ON = {"sky": "in", "water": "in", "night": "in", "leaves": "among", "plain": "against", "blurry": "against"}
_TONES = {"dark": ("dark",), "bright": ("bright", "light")}
_PARTS = {
    "edges": ("the edges of", "the outlines of", "the borders of"),
    "tops": ("the tops of", "the upper parts of"),
    "bottoms": ("the bottoms of", "the lower parts of"),
    "left sides": ("the left sides of", "the left edges of"),
    "right sides": ("the right sides of", "the right edges of"),
    "middles": ("the middle of", "the centers of"),
    "surroundings": ("the space around", "areas around"),
}
_KEPT = ("shape", "surface", "colour", "pattern", "size", "direction", "second", "place", "tone")
"""What is left out last, when somebody says less, to first."""


def describe(looks: Looks, rng: np.random.Generator, *, detail: float) -> str:
    """One person's description of a neuron; `detail` from 0 to 1 is how much of it is said."""
    phrases = [_phrase(_shortened(concept, rng, detail), rng) for concept in looks]
    if len(phrases) > 1 and detail < 0.3 and rng.random() < 0.4:
        phrases = phrases[:1]
    return " and ".join([", ".join(phrases[:-1]), phrases[-1]]) if len(phrases) > 1 else phrases[0]


def _shortened(concept: Concept, rng: np.random.Generator, detail: float) -> Concept:
    """The concept with fewer conditions, at least one; the usual order of what matters, shaken a little."""
    told = [name for name in _KEPT if name in concept.conditions]
    wanted = max(1, round(detail * len(told)))
    if wanted < len(told):
        ranks = np.arange(len(told)) + rng.normal(0, 0.7, len(told))
        for position in np.argsort(ranks)[wanted:].tolist():
            concept = concept.without(told[position])
    return concept


def _phrase(concept: Concept, rng: np.random.Generator) -> str:
    start = f"{_one_of(_PARTS[concept.part], rng)} " if concept.part else ""
    said = {"ground": _ground, "area": _area, "thing": _thing}[concept.kind](concept, rng)
    return start + said


def _thing(concept: Concept, rng: np.random.Generator) -> str:
    """Such as "large red circles with white stripes, mostly at the top of pictures on dark backgrounds"."""
    marks = _marks(concept, rng)
    adjectives: list[Sequence[str]] = [_SIZES[concept.size]] if concept.size else []
    if concept.direction:
        adjectives.append((concept.direction,))
    if concept.pattern and not marks:
        adjectives.append(_PATTERNS[concept.pattern])
    before = [_one_of(words, rng) for words in adjectives]
    colour = [concept.colour] if concept.colour else []
    if marks and concept.second and rng.random() < 0.4 and concept.pattern:
        # "red and white striped circles" says the same as "red circles with white stripes".
        two = f"{concept.colour} and {concept.second}" if concept.colour else concept.second
        colour, marks = [f"{two} {_one_of(_PATTERNS[concept.pattern], rng)}"], ""
    noun = _one_of(_NOUNS[concept.shape] if concept.shape else _ANYTHING, rng)
    return " ".join([*before, *colour, noun]) + marks + _where(concept, rng)


def _marks(concept: Concept, rng: np.random.Generator) -> str:
    """Such as " with white stripes"; nothing where a pattern has no marks or is better said by an adjective."""
    if concept.pattern not in _MARKS or not (concept.second or rng.random() < 0.3):
        return f" with {concept.second} parts" if concept.second and not concept.pattern else ""
    return " ".join([" with", *([concept.second] if concept.second else []), _one_of(_MARKS[concept.pattern], rng)])


def _where(concept: Concept, rng: np.random.Generator) -> str:
    place = (
        f"{', mostly' if rng.random() < 0.3 else ''} {_one_of(_PLACES[concept.place], rng)}" if concept.place else ""
    )
    tone = f"{_one_of(_TONES[concept.tone], rng)} " if concept.tone else ""
    if concept.surface:
        return f"{place} {_ON.get(concept.surface, 'on')} {tone}{_one_of(_GROUNDS[concept.surface], rng)}"
    return f"{place} {_one_of(('on', 'against'), rng)} {tone}backgrounds" if tone else place


def _ground(concept: Concept, rng: np.random.Generator) -> str:
    colours = f"{concept.colour} " if concept.colour else ""
    if concept.colour and concept.second:
        colours = f"{concept.colour} and {concept.second} "
    tone = f"{_one_of(_TONES[concept.tone], rng)} " if concept.tone else ""
    if concept.surface is None:
        return f"{tone}{colours}{_one_of(('backgrounds', 'areas', 'surfaces'), rng)}"
    return f"{tone}{colours}{_one_of(_GROUNDS[concept.surface], rng).removeprefix('the ' if colours or tone else '')}"


def _area(concept: Concept, rng: np.random.Generator) -> str:
    noun = _one_of(("areas", "objects", "things", "regions"), rng)
    return f"{concept.colour} {noun}" + _where(concept, rng)


def _one_of(ways: Sequence[str], rng: np.random.Generator) -> str:
    """The usual way two times of three."""
    if len(ways) == 1 or rng.random() < 0.65:
        return ways[0]
    return ways[int(rng.integers(1, len(ways)))]
