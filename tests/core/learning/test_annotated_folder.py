"""MILANNOTATIONS' layout: shared images are found, what was written comes back, what does not fit is refused."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mami_core.captions.evidence import Phrase
from mami_core.errors import DescriptionsError
from mami_core.learning.annotated_folder import contents, fingerprint, open_annotated, open_exemplars
from mami_core.learning.annotated_writing import write_annotated
from mami_core.learning.descriptions import PHRASES, Neuron, Shown, phrases_json
from mami_core.learning.generated import GeneratedConfig, generate

CSV = "layer,unit,summary\nb,5,eyes\na,1,stripes\na,1,lines\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two layers of 2 units × 3 exemplars; unit 5 of layer b shows two of the images of unit 1 of layer a."""
    rng = np.random.default_rng(0)
    a = rng.integers(0, 256, (2, 3, 3, 8, 9), dtype=np.uint8)
    b = rng.integers(0, 256, (2, 3, 3, 8, 9), dtype=np.uint8)
    b[1, 0], b[1, 2] = a[1, 2], a[1, 1]
    for layer, images, units in (("a", a, None), ("b", b, [9, 5])):
        (tmp_path / layer).mkdir()
        np.save(tmp_path / layer / "images.npy", images)
        np.save(tmp_path / layer / "masks.npy", (images[:, :, :1, ::2, 1:] > 99).astype(np.uint8))
        if units:
            np.save(tmp_path / layer / "units.npy", np.array(units))
    (tmp_path / "annotations.csv").write_text(CSV)
    return tmp_path


def test_described_neurons_are_found_and_shared_images_have_one_number(folder: Path) -> None:
    found = open_annotated(folder)
    assert found.neurons == (Neuron("a", 1), Neuron("b", 5))
    assert found.descriptions == (("stripes", "lines"), ("eyes",))
    assert found.images.tolist() == [[0, 1, 2], [2, 3, 1]]
    assert (found.k, found.num_images) == (3, 4)


def test_pixels_and_regions_are_those_of_the_arrays(folder: Path) -> None:
    found = open_annotated(folder)
    arrays = {name: (np.load(folder / name / "images.npy"), np.load(folder / name / "masks.npy")) for name in "ab"}
    for number, layer in enumerate("ab"):
        for rank, image in enumerate(found.images[number].tolist()):
            np.testing.assert_array_equal(found.pictures.pixels(image), arrays[layer][0][1, rank])
            np.testing.assert_array_equal(found.pictures.region(number, rank), arrays[layer][1][1, rank, 0])


def test_numbers_of_an_earlier_opening_spare_the_reading(folder: Path) -> None:
    first = open_annotated(folder)
    again = open_annotated(folder, images=first.images)
    assert again.images is first.images
    np.testing.assert_array_equal(again.pictures.pixels(3), first.pictures.pixels(3))
    with pytest.raises(DescriptionsError, match="other neurons"):
        open_annotated(folder, images=first.images[:1])


@pytest.mark.parametrize("name", ["images", "masks"])
def test_contents_follow_from_what_described_neurons_show_wherever_it_lies(
    name: str, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    before = contents(open_annotated(folder))
    copy = shutil.copytree(folder, tmp_path_factory.mktemp("copy"), dirs_exist_ok=True)
    assert contents(open_annotated(copy)) == before
    array = np.load(copy / "a" / f"{name}.npy")
    array[0] = 1 - array[0]
    np.save(copy / "a" / f"{name}.npy", array)  # of unit 0, which nobody described
    assert contents(open_annotated(copy)) == before
    array[1, 0, 0, 0, 0] ^= 1
    np.save(copy / "a" / f"{name}.npy", array)
    assert contents(open_annotated(copy)) != before


def test_sightings_of_any_split_are_those_of_the_whole(folder: Path) -> None:
    found = open_annotated(folder)
    whole = list(found.sightings(range(found.num_images)))
    assert [sighting for image in (1, 0, 3, 2) for sighting in found.sightings([image])] == [
        whole[image] for image in (1, 0, 3, 2)
    ]
    assert sorted(place for sighting in whole for place in sighting.exemplars) == list(np.ndindex(2, 3))
    assert whole[2].exemplars == ((0, 2), (1, 0))
    assert list(found.sightings([])) == []


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    """Generated neurons, some of them with fewer than k exemplars."""
    made = generate(GeneratedConfig(num_neurons=12, num_scenes=60, k=9, size=64, num_kinds=12))
    assert (made.images < 0).any()
    write_annotated(made, tmp_path)
    read = open_annotated(tmp_path)
    order = [read.neurons.index(neuron) for neuron in made.neurons]
    assert sorted(order) == list(range(12))
    assert tuple(read.descriptions[position] for position in order) == made.descriptions
    for number, position in enumerate(order):
        assert ((read.images[position] >= 0) == (made.images[number] >= 0)).all()
        for rank in np.flatnonzero(made.images[number] >= 0).tolist():
            np.testing.assert_array_equal(
                read.pictures.pixels(int(read.images[position, rank])),
                made.pictures.pixels(int(made.images[number, rank])),
            )
            np.testing.assert_array_equal(read.pictures.region(position, rank), made.pictures.region(number, rank))


def _save(name: str, array: np.ndarray) -> Callable[[Path], object]:
    return lambda folder: np.save(folder / "a" / name, array)


def _cut(folder: Path) -> None:
    path = folder / "a" / "images.npy"
    path.write_bytes(path.read_bytes()[:-10])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "annotations.csv").unlink(), r"annotations\.csv"),
        (lambda folder: (folder / "b" / "images.npy").unlink(), r"b.images\.npy.*no such file"),
        (lambda folder: (folder / "b").rename(folder / "c"), r"layer 'b'.*\['a', 'c'\]"),
        (lambda folder: (folder / "annotations.csv").write_text(CSV + "b,7,x\n"), "1 neurons without.*unit 7"),
        (lambda folder: (folder / "annotations.csv").write_text(CSV + "../a,0,x\n"), r"layer '\.\./a'"),
        (_save("images.npy", np.zeros((2, 3, 3, 8, 9))), "uint8.*float64"),
        (_save("images.npy", np.zeros((2, 3, 4, 8, 9), np.uint8)), "2×3×4×8×9"),
        (_save("masks.npy", np.zeros((2, 4, 1, 8, 9), np.uint8)), r"masks\.npy.*2×4×1×8×9"),
        (_save("masks.npy", np.array([{}], dtype=object)), "without pickled objects"),
        (_save("units.npy", np.array([3, 3])), r"units\.npy.*2 different"),
        (_save("units.npy", np.array([0.5, 1.0])), "different unit numbers"),
        (_save("units.npy", np.array([-1, 1])), "different unit numbers"),
        (lambda folder: np.savez(folder / "a" / "x", a=np.zeros(1)), None),
        (lambda folder: (folder / "a" / "images.npy").write_bytes(b""), "whole NumPy array"),
        (_cut, "whole NumPy array"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused(
    folder: Path, spoil: Callable[[Path], object], message: str | None
) -> None:
    spoil(folder)
    if message is None:  # what is not asked for does no harm
        assert len(open_annotated(folder)) == 2
        return
    with pytest.raises(DescriptionsError, match=message):
        open_annotated(folder)


def test_an_archive_in_place_of_an_array_is_refused(folder: Path) -> None:
    np.savez(folder / "a" / "images", one=np.zeros(1))
    (folder / "a" / "images.npz").rename(folder / "a" / "images.npy")
    with pytest.raises(DescriptionsError, match="archive"):
        open_annotated(folder)


def test_layers_may_number_photographs_that_lie_once_beside_them(folder: Path) -> None:
    copied = open_annotated(folder)
    shown = [copied.pictures.pixels(image) for image in range(copied.num_images)]
    (folder / "photographs").mkdir()
    np.save(folder / "photographs" / "part-00000.npy", np.stack([np.zeros_like(shown[0]), shown[1]]))
    np.save(folder / "photographs" / "part-00001.npy", np.stack([shown[3], shown[2], shown[0]]))
    place = {0: 4, 1: 1, 2: 3, 3: 2}  # of each image in the two files
    for layer, row in (("a", 0), ("b", 1)):
        numbers = np.full((2, 3), -1)
        numbers[1] = [place[image] for image in copied.images[row].tolist()]
        np.save(folder / layer / "images.npy", numbers)
    numbered = open_annotated(folder)
    np.testing.assert_array_equal(numbered.images, copied.images)
    for image, pixels in enumerate(shown):
        np.testing.assert_array_equal(numbered.pictures.pixels(image), pixels)


def test_a_missing_photograph_is_refused(folder: Path) -> None:
    np.save(folder / "a" / "images.npy", np.array([[0, 1, -1], [2, 0, 0]]))
    with pytest.raises(DescriptionsError, match="numbers of the 0 photographs"):
        open_annotated(folder)


DOGS = (Phrase("dogs", "noun"), Phrase("on grass", "context"))


def _say(folder: Path) -> dict[str, np.ndarray]:
    """How true two phrases are of all exemplars."""
    (folder / PHRASES).write_bytes(phrases_json(DOGS))
    rng = np.random.default_rng(1)
    truth = {layer: rng.integers(0, 256, (2, 3, 2), dtype=np.uint8) for layer in "ab"}
    for layer, of_layer in truth.items():
        np.save(folder / layer / "shown.npy", of_layer)
    return truth


def test_what_exemplars_show_is_read_where_a_folder_says_it(folder: Path, tmp_path: Path) -> None:
    assert open_annotated(folder).read_shown is None
    truth = _say(folder)
    found = open_annotated(folder)
    assert found.read_shown is not None
    shown = found.read_shown()
    assert shown.phrases == DOGS
    np.testing.assert_array_equal(shown.truth, [truth["a"][1], truth["b"][1]])
    write_annotated(found, tmp_path / "written")
    back = open_annotated(tmp_path / "written").read_shown
    assert back is not None
    assert back().phrases == DOGS
    np.testing.assert_array_equal(back().truth, shown.truth)


def test_neurons_with_fewer_exemplars_show_nothing_beyond_them(tmp_path: Path) -> None:
    made = generate(GeneratedConfig(num_neurons=4, num_scenes=60, k=5, size=64, num_kinds=12))
    truth = np.full((4, 5, 2), 200, np.uint8) * (made.images >= 0)[..., None].astype(np.uint8)
    write_annotated(dataclasses.replace(made, read_shown=lambda: Shown(DOGS, truth)), tmp_path)
    layer = made.neurons[0].layer
    for name in ("images", "masks", "shown"):
        path = tmp_path / layer / f"{name}.npy"
        np.save(path, np.load(path)[:, :3])
    shown = open_annotated(tmp_path).read_shown
    assert shown is not None
    for neuron, found in zip(open_annotated(tmp_path).neurons, shown().truth, strict=True):
        expected = truth[made.neurons.index(neuron)]
        np.testing.assert_array_equal(found[:3], expected[:3])
        np.testing.assert_array_equal(found[3:], 0 if neuron.layer == layer else expected[3:])


def test_what_is_shown_in_a_folder_of_folders_is_not_read_and_that_is_said(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _say(folder)
    shutil.copytree(folder, tmp_path / "all" / "one")
    assert open_annotated(tmp_path / "all").read_shown is None
    assert "one/phrases.json" in caplog.text
    caplog.clear()
    assert open_annotated(tmp_path / "all" / "one").read_shown is not None
    assert not caplog.text


@pytest.mark.parametrize("changed", ["a phrase", "a truth"])
def test_what_exemplars_show_is_part_of_what_a_folder_is(folder: Path, changed: str) -> None:
    identities, exemplars = [contents(open_annotated(folder))], fingerprint(open_exemplars(folder))
    truth = _say(folder)
    identities.append(contents(open_annotated(folder)))
    if changed == "a phrase":
        (folder / PHRASES).write_bytes(phrases_json((*DOGS[:1], Phrase("in water", "context"))))
    else:
        truth["b"][1, 0, 0] ^= 1
        np.save(folder / "b" / "shown.npy", truth["b"])
    identities.append(contents(open_annotated(folder)))
    assert len(set(identities)) == 3
    assert fingerprint(open_exemplars(folder)) == exemplars, "who captions exemplars has no use for it"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "b" / "shown.npy").unlink(), r"b.shown\.npy.*Finish mami annotate"),
        (_save("shown.npy", np.zeros((2, 3, 3), np.uint8)), r"a.shown\.npy.*2×3×2.*found uint8 of 2×3×3"),
        (_save("shown.npy", np.zeros((2, 4, 2), np.uint8)), r"a.shown\.npy.*2×4×2"),
        (_save("shown.npy", np.zeros((2, 3, 2), np.float32)), r"a.shown\.npy.*float32"),
        (lambda folder: (folder / PHRASES).write_text("[]"), r"phrases\.json.*at least one"),
        (lambda folder: (folder / PHRASES).write_text('[["dogs", "noun"], ["dogs", "look"]]'), "each text once"),
        (lambda folder: (folder / PHRASES).write_text('[["dogs", 1], ["cats", 2]]'), "texts and kinds"),
        (lambda folder: (folder / PHRASES).write_text('[["dogs"], ["cats"]]'), r"phrases\.json: expected a list"),
        (lambda folder: (folder / PHRASES).write_text("3"), r"phrases\.json: expected a list"),
        (lambda folder: (folder / PHRASES).write_bytes(b"\xff"), r"phrases\.json: expected a list"),
    ],
)
def test_what_does_not_say_what_exemplars_show_is_named(
    folder: Path, spoil: Callable[[Path], object], message: str
) -> None:
    _say(folder)
    spoil(folder)
    with pytest.raises(DescriptionsError, match=message):
        open_annotated(folder)
