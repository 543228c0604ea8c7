"""Generated neurons: the same everywhere, regions on what the descriptions say, and truly unseen combinations."""

import itertools

import numpy as np
import pytest

from mami_core.captions.vocabulary import tokenize
from mami_core.errors import ConfigError
from mami_core.learning.descriptions import AnnotatedNeurons
from mami_core.learning.generated import UNSEEN, GeneratedConfig, generate
from mami_core.learning.generated.concepts import Concept, world_of
from mami_core.learning.generated.drawing import Drawing, draw
from mami_core.learning.generated.grammar import describe
from mami_core.learning.generated.neurons import LAYERS, choose_neurons, held_out_pairs
from mami_core.learning.generated.regions import as_a_network_sees, region_of
from mami_core.learning.generated.scenes import (
    COLOURS,
    PATTERNS,
    SHAPES,
    SURFACES,
    Ground,
    Kind,
    Scene,
    Thing,
    kinds,
    scene,
)

SMALL = GeneratedConfig(num_neurons=60, num_scenes=120, size=64, num_kinds=24)


@pytest.fixture(scope="module")
def made() -> AnnotatedNeurons:
    return generate(SMALL)


def test_every_process_makes_the_same_neurons_and_any_image_alone(made: AnnotatedNeurons) -> None:
    """A worker draws its slice of the images, backwards here, and gets what another gets in order."""
    again = generate(SMALL)
    assert again.neurons == made.neurons
    assert again.descriptions == made.descriptions
    np.testing.assert_array_equal(again.images, made.images)
    for sighting in reversed(list(made.sightings(range(0, 120, 7)))):
        for neuron, rank in reversed(sighting.exemplars):
            np.testing.assert_array_equal(again.pictures.region(neuron, rank), made.pictures.region(neuron, rank))
        np.testing.assert_array_equal(again.pictures.pixels(sighting.image), made.pictures.pixels(sighting.image))


def test_another_seed_makes_others(made: AnnotatedNeurons) -> None:
    other = generate(GeneratedConfig(num_neurons=60, num_scenes=120, size=64, num_kinds=24, seed=1))
    assert len(set(other.descriptions) & set(made.descriptions)) < len(made) / 2
    assert (other.pictures.pixels(0) != made.pictures.pixels(0)).any()


def test_neurons_have_different_exemplars_and_regions_that_show_something(made: AnnotatedNeurons) -> None:
    assert {neuron.layer for neuron in made.neurons} <= set(LAYERS)
    assert len(set(made.neurons)) == len(made)
    for row in made.images:
        present = row[row >= 0].tolist()
        assert len(set(present)) == len(present) >= 1
        assert row.tolist() == present + [-1] * (15 - len(present))
    shares = [
        made.pictures.region(*exemplar).mean()
        for sighting in made.sightings(range(40))
        for exemplar in sighting.exemplars
    ]
    assert np.mean(np.array(shares) > 0) > 0.99
    assert 0.01 < np.median(shares) < 0.3


def test_descriptions_are_short_and_long_and_in_words_that_recur() -> None:
    made = generate(GeneratedConfig(num_neurons=300, num_scenes=400))
    words = [tokenize(text) for texts in made.descriptions for text in texts]
    lengths = np.array([len(text) for text in words])
    assert len(made) == 300
    assert lengths.min() >= 1
    assert np.mean(lengths <= 3) > 0.15
    assert np.mean(lengths >= 10) > 0.1
    assert 15 <= lengths.max() <= 31
    vocabulary, counts = np.unique(list(itertools.chain(*words)), return_counts=True)
    assert 100 < len(vocabulary) < 300
    assert np.median(counts) > 8


def test_unseen_neurons_combine_what_no_other_neuron_combines() -> None:
    world = world_of([scene(0, number, kinds(0, 60)) for number in range(200)])
    chosen = choose_neurons(world, 0, num_neurons=200, k=15, unseen=0.2)
    held_out = held_out_pairs(0, 0.2)
    pairs = {(concept.colour, concept.shape) in held_out: set() for neuron in chosen for concept in neuron.looks}
    for neuron in chosen:
        about = {(concept.colour, concept.shape) for concept in neuron.looks}
        assert (neuron.layer == UNSEEN) == bool(about & held_out)
        pairs[neuron.layer == UNSEEN] |= about
    assert pairs[True] & held_out
    # The halves of most unseen pairs are known from other neurons (of all, in a world of the usual size).
    colours, shapes = ({pair[position] for pair in pairs[False]} for position in (0, 1))
    known = [colour in colours and shape in shapes for colour, shape in pairs[True] & held_out]
    assert np.mean(known) > 0.8


def one_thing(shape: str = "square", *, colour: str = "red", second: str = "red", pattern: str = "solid") -> Scene:
    thing = Thing(Kind(shape, colour, pattern, second), "large", None, 0.5, 0.5, 0.3, 0.0)
    return Scene(0, (Ground("plain", "green", "white", 0.0),), 1.0, (thing,))


def test_a_square_is_drawn_where_it_stands_in_its_colour() -> None:
    drawing = draw(one_thing(), 0, 100)
    expected = np.zeros((100, 100), bool)
    expected[25:75, 25:75] = True  # 0.5 ± 0.82 · 0.3
    assert np.mean((drawing.owner == 0) == expected) > 0.99
    inside = drawing.pixels[:, drawing.owner == 0].mean(1)
    outside = drawing.pixels[:, drawing.owner == -1].mean(1)
    assert inside.argmax() == 0
    assert outside.argmax() == 1


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_seen_whole(shape: str) -> None:
    """It fills a sensible part of its box and does not leave it."""
    seen = draw(one_thing(shape), 0, 128).owner == 0
    assert 0.03 < seen.mean() / 0.36 < 0.95
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    assert min(rows[0], columns[0]) > 12
    assert max(rows[-1], columns[-1]) < 116
    assert len(rows) > 30


@pytest.mark.parametrize("pattern", [pattern for pattern in PATTERNS if pattern not in ("solid", "shiny", "fuzzy")])
def test_patterns_show_both_colours(pattern: str) -> None:
    drawing = draw(one_thing(colour="black", second="white", pattern=pattern), 0, 128)
    brightness = drawing.pixels[:, drawing.owner == 0].mean(0)
    assert np.mean(brightness > 180) > 0.15
    assert np.mean(brightness < 80) > 0.15


@pytest.mark.parametrize("surface", SURFACES)
@pytest.mark.parametrize("colour", ["white", "black"])
def test_every_surface_is_drawn(surface: str, colour: str) -> None:
    drawing = draw(Scene(3, (Ground(surface, colour, "blue", 1.0),), 1.0, ()), 0, 64)
    assert (drawing.owner == -1).all()
    assert drawing.pixels.std() > 0.5


def test_a_horizon_divides_the_grounds() -> None:
    both = Scene(0, (Ground("sky", "blue", "white", 0.0), Ground("sand", "tan", "white", 0.0)), 0.25, ())
    owner = draw(both, 0, 64).owner
    assert (owner[:16] == -1).all()
    assert (owner[16:] == -2).all()
    assert both.ground_at(0.2).surface == "sky"
    assert both.ground_at(0.3).surface == "sand"


def test_parts_of_a_thing_lie_where_they_should() -> None:
    drawing = draw(one_thing(), 0, 100)
    whole = region_of(drawing, [0], None)
    parts = {
        name: region_of(drawing, [0], name)
        for name in ("tops", "bottoms", "left sides", "right sides", "middles", "edges", "surroundings")
    }
    rows = {name: np.argwhere(part).mean(0) for name, part in parts.items()}
    assert rows["tops"][0] < 40 < 60 < rows["bottoms"][0]
    assert rows["left sides"][1] < 40 < 60 < rows["right sides"][1]
    assert all((part & ~whole).sum() == 0 for name, part in parts.items() if name not in ("edges", "surroundings"))
    assert not (parts["surroundings"] & whole).any()
    assert not (parts["edges"] & parts["middles"]).any()
    assert (parts["edges"] & whole).any()
    assert (parts["edges"] & ~whole).any()
    assert not region_of(drawing, [], "tops").any()


def test_a_blurred_region_is_about_the_same_and_never_empty() -> None:
    seen = region_of(Drawing(np.zeros((3, 64, 64), np.uint8), np.zeros((64, 64), np.int8)), [0], None)
    assert as_a_network_sees(seen, 12).all()
    spot = np.zeros((64, 64), bool)
    spot[10:14, 20:23] = True
    rough = as_a_network_sees(spot, 14)
    assert rough[11, 21]
    assert 12 <= rough.sum() < 200
    assert not as_a_network_sees(np.zeros((64, 64), bool), 14).any()


def test_the_table_finds_what_a_loop_finds() -> None:
    scenes = [scene(0, number, kinds(0, 24)) for number in range(80)]
    world = world_of(scenes)
    concepts = [
        Concept(shape="star"),
        Concept(colour="red", place="top"),
        Concept(colour="blue", kind="area"),
        Concept(surface="sky", kind="ground"),
        Concept(tone="dark", size="large"),
        Concept(shape="no such shape"),
    ]
    for concept in concepts:
        matched = world.matches(concept)
        rows = [row for row, is_match in zip(world.rows, matched, strict=True) if is_match]
        assert [(row.scene, row.owner) for row in rows] == [
            (number, owner) for number in range(80) for owner in world.owners(number, concept)
        ]
        for row in rows:
            assert all(row.values[name] == value for name, value in concept.conditions.items())
    reds = sum(thing.kind.colour == "red" and thing.place == "top" for one in scenes for thing in one.things)
    assert world.matches(concepts[1]).sum() == reds > 0


def test_everything_of_a_concept_can_be_said() -> None:
    concept = Concept(shape="circle", colour="red", pattern="striped", second="white", size="large", place="top")
    said = [describe((concept,), np.random.default_rng(seed), detail=1.0) for seed in range(20)]
    for text in said:
        assert {"red", "white"} <= set(tokenize(text))
        assert set(tokenize(text)) & {"large", "big"}
        assert set(tokenize(text)) & {"top", "upper"}
    short = [describe((concept,), np.random.default_rng(seed), detail=0.0) for seed in range(20)]
    assert all(len(tokenize(text)) <= 3 for text in short)


def test_colours_can_be_told_apart() -> None:
    for (one, first), (other, second) in itertools.combinations(COLOURS.items(), 2):
        assert np.abs(np.subtract(first, second)).max() > 40, (one, other)


@pytest.mark.parametrize("wrong", [{"num_neurons": 0}, {"size": 8}, {"unseen": 1.0}, {"k": 0}])
def test_impossible_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError):
        GeneratedConfig(**wrong)
