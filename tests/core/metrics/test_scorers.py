"""Scorers: one from outside, and those that are packaged; an image's and a text's vector is theirs alone."""

import socket
from pathlib import Path

import pytest
import torch
from torch import nn

from mami_core.errors import ConfigError
from mami_core.metrics.networks import quiet
from mami_core.metrics.scorers import Scorer, load_scorer
from tests.core.metrics.tiny_clip import write_clip

TEXTS = ["red dogs", "green grass below a sky", "a", "red dogs"] + [f"{'very ' * (n % 5)}blue" for n in range(35)]


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with quiet():
        return write_clip(tmp_path_factory.mktemp("clip") / "tiny-clip")


@pytest.fixture(scope="module")
def clip(clip_folder: Path) -> Scorer:
    return load_scorer(str(clip_folder))


def pixels(count: int, size: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, size, size), generator=torch.Generator().manual_seed(1)).to(torch.uint8)


def test_clip_gives_its_own_vectors(clip: Scorer, clip_folder: Path) -> None:
    from transformers import AutoProcessor, CLIPModel

    with quiet(), torch.inference_mode():
        network, processor = CLIPModel.from_pretrained(clip_folder), AutoProcessor.from_pretrained(clip_folder)
        inputs = processor(
            text=TEXTS, images=list(pixels(4, 32)), return_tensors="pt", padding="max_length", max_length=24
        )
        theirs = network(**inputs)
    normalised = [nn.functional.normalize(vectors, dim=1) for vectors in (clip.see(pixels(4, 32)), clip.read(TEXTS))]
    assert torch.allclose(normalised[0], theirs.image_embeds, atol=1e-5)
    assert torch.allclose(normalised[1], theirs.text_embeds, atol=1e-5)
    assert (clip.input_size, clip.name.split()[0]) == (32, "tiny-clip")


def test_a_text_and_an_image_have_the_same_bits_beside_any_others(clip: Scorer) -> None:
    texts, images = clip.read(TEXTS), clip.see(pixels(8, 32))
    assert torch.equal(clip.read(TEXTS[1:2]), texts[1:2])
    assert torch.equal(texts[0], texts[3])
    assert torch.equal(clip.read(TEXTS[::-1]), texts.flip(0))
    assert torch.equal(clip.see(pixels(8, 32).flip(0)), images.flip(0))


def test_what_is_not_here_is_refused_without_a_network_connection(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("reached for the network"))
    with pytest.raises(ConfigError, match="neither a folder nor in this machine's cache"):
        load_scorer("openai/clip-vit-base-patch32")
    with pytest.raises(ConfigError, match=r"expected a folder with config\.json"):
        load_scorer(str(tmp_path))


def test_a_network_without_images_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"cannot be used|expected an image–text network"):
        load_scorer("all-MiniLM-L6-v2")


@pytest.fixture(scope="module")
def learned() -> Scorer:
    return load_scorer("learned")


def plain(colour: tuple[int, int, int], size: int) -> torch.Tensor:
    return torch.tensor(colour, dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, size, size)


def test_the_packaged_scorer_knows_colours_and_its_texts_and_images_stand_alone(learned: Scorer) -> None:
    shown = {"red": (200, 40, 40), "green": (60, 140, 60), "blue": (50, 90, 190), "yellow": (235, 215, 60)}
    images = learned.see(torch.cat([plain(colour, learned.input_size) for colour in shown.values()]))
    texts = learned.read(list(shown))
    fits = nn.functional.normalize(images, dim=1) @ nn.functional.normalize(texts, dim=1).T
    fits = fits - fits.mean(0)
    assert fits.argmax(1).tolist() == [0, 1, 2, 3]
    assert torch.equal(
        learned.see(torch.cat([plain(colour, learned.input_size) for colour in list(shown.values())[::-1]])),
        images.flip(0),
    )
    assert torch.equal(learned.read(["blue"]), texts[2:3])
    assert learned.name.startswith("learned ")


def test_conse_is_told_apart_from_what_was_learned(learned: Scorer) -> None:
    conse = load_scorer("conse")
    assert conse.name.startswith("conse ")
    assert conse.name.split()[1] == learned.name.split()[1], "from the same file"
    some = pixels(2, conse.input_size)
    assert not torch.allclose(conse.see(some), learned.see(some))


def test_no_scorer_is_no_name_to_load() -> None:
    with pytest.raises(ConfigError, match="judges nothing"):
        load_scorer("none")
    for name in ("python:tests.tiny:absent", "python:no.such.module:scorer", "python:tests.tiny"):
        with pytest.raises(ConfigError, match="expected python:MODULE:FACTORY"):
            load_scorer(name)
    with pytest.raises(ConfigError, match="returned a Subject"):
        load_scorer("python:tests.tiny:network")
