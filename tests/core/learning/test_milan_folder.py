"""MILAN's folders come back byte for byte, and MILANNOTATIONS' folders are read as one."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mami_core.errors import DescriptionsError
from mami_core.learning.annotated_folder import GROUPS, open_annotated
from mami_core.learning.descriptions import Neuron
from mami_core.learning.milan_folder import as_sentences, descriptions_file, read_folder, write_folder
from mami_core.learning.targets import SplitConfig
from mami_core.learning.training import Examples, LearningConfig, Lessons

UNITS, K, SIDE = 3, 2, 8


def write_layer(folder: Path, seed: int, *, whole: bool = True) -> None:
    """As MILAN's scripts write it."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    np.save(folder / "masks.npy", random.integers(0, 2, (UNITS, K, 1, SIDE, SIDE), np.uint8))
    np.savetxt(folder / "ids.csv", random.integers(0, 50_000, (UNITS, K)), delimiter=",", fmt="%i")
    if whole:
        np.save(folder / "images.npy", random.integers(0, 256, (UNITS, K, 3, SIDE, SIDE), np.uint8))
        np.save(folder / "units.npy", np.array([1, 4, 5]))
        np.savetxt(folder / "activations.csv", random.normal(size=(UNITS, K)) * 1e3, delimiter=",", fmt="%.5e")


def write_network(folder: Path, seed: int) -> Path:
    write_layer(folder / "conv1", seed)
    write_layer(folder / "4", seed + 1)
    lines = ["layer,unit,summary", 'conv1,4,"red, round"', "4,5,a dog's head", "conv1,4,circles", "conv1,1,sky"]
    (folder / "annotations.csv").write_bytes("".join(f"{line}\r\n" for line in lines).encode())
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_comes_back_byte_for_byte(tmp_path: Path) -> None:
    written = write_network(tmp_path / "there", 1)
    write_layer(written / "without_pictures", 7, whole=False)
    made = read_folder(written)
    assert isinstance(made.layers["conv1"].images, np.memmap), "mapped, not loaded"
    write_folder(made, tmp_path / "back")
    assert files(tmp_path / "back") == files(written)


def test_arrays_that_are_no_files_are_written_as_numpy_writes_them(tmp_path: Path) -> None:
    written = write_network(tmp_path / "there", 1)
    made = read_folder(written)
    layer = made.layers["conv1"]
    assert layer.images is not None
    loaded = replace(layer, images=np.array(layer.images), masks=np.array(layer.masks))
    write_folder(replace(made, layers={**made.layers, "conv1": loaded}), tmp_path / "back")
    assert files(tmp_path / "back") == files(written)


def test_pictures_for_people_are_passed_over(tmp_path: Path) -> None:
    written = write_network(tmp_path / "there", 1)
    for name in ("viz/conv1", "conv1/viz/unit_0", "viz_conv1"):
        (written / name).mkdir(parents=True)
        (written / name / "image_0.png").write_bytes(b"a picture")
    assert sorted(read_folder(written).layers) == ["4", "conv1"]


def test_numbers_of_units_are_their_rows_where_none_are_given(tmp_path: Path) -> None:
    write_layer(tmp_path / "conv1", 3, whole=False)
    layer = read_folder(tmp_path).layers["conv1"]
    assert layer.numbers.tolist() == [0, 1, 2]
    assert layer.images is None


@pytest.mark.parametrize("file", ["ids.csv", "activations.csv"])
def test_tables_that_do_not_fit_are_refused(file: str, tmp_path: Path) -> None:
    write_network(tmp_path / "there", 1)
    (tmp_path / "there/conv1" / file).write_text("1,2\n3,4\n")
    with pytest.raises(DescriptionsError, match=file):
        read_folder(tmp_path / "there")
    (tmp_path / "there/conv1" / file).write_text("1,2\n3,x\n5,6\n")
    with pytest.raises(DescriptionsError, match="numbers"):
        read_folder(tmp_path / "there")


def test_no_layers_is_said(tmp_path: Path) -> None:
    with pytest.raises(DescriptionsError, match=r"masks\.npy"):
        read_folder(tmp_path)


def test_networks_side_by_side_are_one_set_of_neurons(tmp_path: Path) -> None:
    write_network(tmp_path / "alexnet/imagenet", 1)
    write_network(tmp_path / "biggan/places365", 5)
    found = open_annotated(tmp_path)
    assert len(found) == 6
    assert set(found.neurons) >= {Neuron("alexnet/imagenet/conv1", 4), Neuron("biggan/places365/4", 5)}
    said = dict(zip(found.neurons, found.descriptions, strict=True))
    assert said[Neuron("alexnet/imagenet/conv1", 4)] == ("red, round", "circles")
    alone = open_annotated(tmp_path / "alexnet/imagenet")
    assert set(alone.neurons) == {Neuron("conv1", 1), Neuron("conv1", 4), Neuron("4", 5)}


def test_milans_groups_are_read_by_name(tmp_path: Path) -> None:
    for number, network in enumerate(GROUPS["base"]):
        write_network(tmp_path / network, number)
    (tmp_path / "imagenet/val").mkdir(parents=True)  # the photographs that were searched

    def networks(name: str) -> set[str]:
        return {neuron.layer.rpartition("/")[0] for neuron in open_annotated(tmp_path / name).neurons}

    assert networks("base") == set(GROUPS["base"])
    assert networks("imagenet") == {"alexnet/imagenet", "resnet152/imagenet", "biggan/imagenet"}
    assert networks("not-biggan-places365") == set(GROUPS["base"]) - {"biggan/places365"}
    assert networks("gen") == {"biggan/imagenet", "biggan/places365"}
    with pytest.raises(DescriptionsError):
        open_annotated(tmp_path / "no-such-group")


def test_descriptions_are_written_as_milan_writes_them() -> None:
    written = descriptions_file({("conv1", 0): "black-and-white dogs, red", ("4", 12): "a sky. blue"})
    assert written == b'layer,unit,description\nconv1,0,"Black-and-white dogs, red"\n4,12,A sky. Blue\n'
    assert as_sentences("dogs.") == "Dogs."


def test_a_captioner_may_learn_punctuation(tmp_path: Path) -> None:
    pytest.importorskip("spacy")
    neurons = tuple(Neuron("conv1", unit) for unit in range(20))
    examples = Examples(
        neurons=neurons,
        descriptions=(("a dog's head, close-up",),) * 20,
        features=torch.zeros(20, 1, 2),
        present=torch.ones(20, 1, dtype=torch.bool),
    )
    config = LearningConfig(split=SplitConfig(validation=0.3, test=0.0), tokenizer="spacy")
    vocabulary = Lessons(examples, config).vocabulary
    assert vocabulary.tokenizer == "spacy"
    assert set(vocabulary.words) == {"a", "dog", "'s", "head", ",", "close", "-", "up"}
