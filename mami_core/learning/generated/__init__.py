"""Annotated neurons that the project makes itself: drawn scenes, exact regions, descriptions by a grammar.

Where no person has described neurons, a captioner can be trained on these: the pictures have the colours, textures,
patterns, shapes and places that early and middle layers look for, in the words that people use for them. It cannot
learn from them what a dog is.
"""

import functools
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from mami_core.errors import ConfigError
from mami_core.learning.descriptions import AnnotatedNeurons, Neuron
from mami_core.learning.generated.concepts import Concept, World, world_of
from mami_core.learning.generated.drawing import Drawing, draw
from mami_core.learning.generated.grammar import describe
from mami_core.learning.generated.neurons import Chosen, choose_neurons
from mami_core.learning.generated.regions import as_a_network_sees, region_of
from mami_core.learning.generated.scenes import Scene, kinds, scene

__all__ = ["UNSEEN", "GeneratedConfig", "generate"]

UNSEEN = "unseen"
"""The layer whose neurons are about colours and shapes that no other layer's neurons combine."""

_DETAIL = {0.35: 0.2, 0.7: 0.3, 1.0: 0.5}
"""How much of what a neuron looks for a person says, and how many such persons there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedConfig:
    """How many neurons to make, and of what."""

    num_neurons: int = 1200
    num_scenes: int = 1500
    """Distinct pictures: what encoding costs. Neurons share them."""
    k: int = 15
    """Exemplars a neuron; some have fewer."""
    size: int = 144
    """Side of the pictures in pixels."""
    num_kinds: int = 160
    """Different things, by shape, colours and pattern."""
    num_descriptions: int = 3
    """Persons who describe each neuron."""
    unseen: float = 0.2
    """Share of the (colour, shape) pairs that only the layer "unseen" is about."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_neurons", "num_scenes", "k", "num_kinds", "num_descriptions"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected at least 1, found {getattr(self, name)}.")
        if self.size < 64 or not 0 <= self.unseen < 1:
            raise ConfigError(
                f"expected pictures of at least 64 pixels and a share below 1, found {self.size} and {self.unseen}."
            )


def generate(config: GeneratedConfig) -> AnnotatedNeurons:
    """The neurons of a generated subject. Takes seconds; pictures are drawn only when they are asked for.

    The same configuration gives the same neurons, pictures and descriptions in every process. A world that is too
    small for so many different neurons gives fewer.
    """
    kinds_of_things = kinds(config.seed, config.num_kinds)
    scenes = tuple(scene(config.seed, number, kinds_of_things) for number in range(config.num_scenes))
    world = world_of(scenes)
    chosen = choose_neurons(world, config.seed, num_neurons=config.num_neurons, k=config.k, unseen=config.unseen)
    images = np.full((len(chosen), config.k), -1, dtype=np.int64)
    for number, neuron in enumerate(chosen):
        images[number, : len(neuron.scenes)] = neuron.scenes
    return AnnotatedNeurons(
        neurons=_numbered(chosen),
        descriptions=tuple(_descriptions(config, number, neuron) for number, neuron in enumerate(chosen)),
        images=images,
        pictures=_Drawn(config, scenes, world, tuple(chosen)),
    )


def _numbered(chosen: list[Chosen]) -> tuple[Neuron, ...]:
    """Units are numbered layer by layer."""
    counts: dict[str, int] = {}
    neurons = []
    for layer in (neuron.layer for neuron in chosen):
        counts[layer] = counts.get(layer, -1) + 1
        neurons.append(Neuron(layer, counts[layer]))
    return tuple(neurons)


def _descriptions(config: GeneratedConfig, number: int, neuron: Chosen) -> tuple[str, ...]:
    rng = np.random.default_rng((config.seed, 5, number))
    details = rng.choice(list(_DETAIL), size=config.num_descriptions, p=list(_DETAIL.values())).tolist()
    return tuple(describe(neuron.looks, rng, detail=detail) for detail in details)


@dataclass(frozen=True, slots=True, eq=False)
class _Drawn:
    """Implements `Pictures`: draws a scene when its pixels or regions are asked for."""

    config: GeneratedConfig
    scenes: tuple[Scene, ...]
    world: World
    chosen: tuple[Chosen, ...]

    def pixels(self, image: int) -> UInt8[np.ndarray, "3 h w"]:
        return self._drawing(image).pixels

    def region(self, neuron: int, rank: int) -> UInt8[np.ndarray, "h w"]:
        """Exact for most exemplars, and for some as coarse as an activation map."""
        of = self.chosen[neuron]
        drawing = self._drawing(of.scenes[rank])
        parts = [self._shown(drawing, of.scenes[rank], concept) for concept in of.seen_as[rank]]
        region = np.logical_or.reduce(parts)
        rng = np.random.default_rng((self.config.seed, 6, neuron, rank))
        if rng.random() < 0.4:
            region = as_a_network_sees(region, int(rng.integers(12, 29)))
        return region.astype(np.uint8)

    def _shown(self, drawing: Drawing, image: int, concept: Concept) -> np.ndarray:
        return region_of(drawing, self.world.owners(image, concept), concept.part)

    def _drawing(self, image: int) -> Drawing:
        return _draw_once(self.scenes[image], self.config.seed, self.config.size)


@functools.lru_cache(maxsize=4)
def _draw_once(scene: Scene, seed: int, size: int) -> Drawing:
    """The regions of an image are asked for one after the other."""
    return draw(scene, seed, size)
