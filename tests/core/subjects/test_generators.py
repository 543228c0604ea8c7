"""Generators: what they give inside is read where their images then show it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mami_core.errors import ImageSourceError, SubjectError
from mami_core.exemplars.region import regions
from mami_core.images import LocalFiles
from mami_core.images.latents import read_latents
from mami_core.subjects import generate, generator_of, list_layers, load_subject
from tests import tiny


def test_a_generator_is_read_layer_by_layer_but_for_its_image() -> None:
    subject = tiny.generator()
    assert subject.input_size == 32
    infos = {info.name: info for info in list_layers(subject)}
    assert subject.default_layers == ("up1", "up2")
    assert (infos["up1"].num_units, infos["up1"].map_size) == (8, (8, 8)), "as many channels as rows and columns"
    assert (infos["up2"].num_units, infos["up2"].map_size) == (8, (16, 16))
    latents = torch.randn(5, 8)
    pixels = generate(subject, latents)
    assert pixels.shape == (5, 3, 32, 32)
    with torch.no_grad():
        with subject.trace(("up1",)) as outputs:
            subject.read(latents, outputs.run)
            found = outputs["up1"]
        start, up = (subject.network.get_submodule(name) for name in ("start", "up1"))
        torch.testing.assert_close(found, up(start(latents).view(-1, 16, 4, 4)))


class Spot(nn.Module):
    """A latent says in which of 4 × 4 cells the image is bright, by way of tokens in an order of their own."""

    def __init__(self, *, turned: bool = False) -> None:
        super().__init__()
        self.turned, self.cells, self.act = turned, nn.Identity(), nn.ReLU()

    def forward(self, z: Tensor) -> Tensor:
        tokens = self.cells(torch.stack([z, -z, z * 0.5], 2))  # [B, 16 cells, 3 units]
        maps = self.act(tokens.transpose(1, 2).unflatten(2, (4, 4)))
        maps = maps.transpose(2, 3) if self.turned else maps
        return nn.functional.interpolate(torch.tanh(maps[:, :1]).expand(-1, 3, -1, -1), scale_factor=8.0)


def test_a_unit_s_region_is_where_its_image_shows_it() -> None:
    subject = generator_of(Spot(), name="spot", latent_shape=16, default_layers=("act", "cells"))
    latents = torch.full((16, 16), -1.0) + 3 * torch.eye(16)  # each bright in one cell
    shown = generate(subject, latents)[:, 0] > 130
    with torch.no_grad(), subject.trace(("act", "cells")) as outputs:
        subject.read(latents, outputs.run)
        for layer in ("act", "cells"):
            found = regions(outputs[layer][:, 0].clamp(min=0), torch.full((16,), 1.0), 32)
            covered = (found & shown).flatten(1).sum(1) / shown.flatten(1).sum(1)
            assert bool((covered > 0.6).all()), layer
            assert bool(((found & ~shown).flatten(1).sum(1) < 0.6 * shown.flatten(1).sum(1)).all()), layer


class Grey(tiny.TinyGenerator):
    """Its image's channels are one piece of memory."""

    def forward(self, z: Tensor) -> Tensor:
        return super().forward(z)[:, :1].expand(-1, 3, -1, -1)


def test_an_image_whose_channels_share_their_memory_is_made() -> None:
    pixels = generate(generator_of(Grey(), name="grey", latent_shape=8), torch.randn(5, 8))
    assert pixels[:, :1].expand(-1, 3, -1, -1).equal(pixels)
    assert pixels.unique().numel() > 9


def test_tokens_that_lie_otherwise_than_the_image_are_no_map() -> None:
    with pytest.raises(SubjectError, match="nothing could be read but its image"):
        generator_of(_Turned(), name="turned", latent_shape=16)


class _Turned(nn.Module):
    """Its cells act column by column."""

    def __init__(self) -> None:
        super().__init__()
        self.spot = Spot(turned=True)

    def forward(self, z: Tensor) -> Tensor:
        return self.spot(z)


class Loud(tiny.TinyGenerator):
    def forward(self, z: Tensor) -> Tensor:
        return 255 * super().forward(z)


class Wide(tiny.TinyGenerator):
    def forward(self, z: Tensor) -> Tensor:
        return super().forward(z)[:, :, :16]


class Noisy(tiny.TinyGenerator):
    def forward(self, z: Tensor) -> Tensor:
        return super().forward(z + torch.randn_like(z))


@pytest.mark.parametrize(
    ("network", "why"),
    [(Loud, r"pixel_range=\(LOW, HIGH\)"), (Wide, "square images"), (Noisy, "something else each time")],
)
def test_what_is_no_steady_generator_of_squares_is_refused(network: type[nn.Module], why: str) -> None:
    torch.manual_seed(0)
    with pytest.raises(SubjectError, match=why):
        generator_of(network(), name="it", latent_shape=8)


def test_a_generator_sees_no_images() -> None:
    with pytest.raises(SubjectError, match="is a generator, which sees no images"):
        load_subject(tiny.GENERATOR, crop=0.5)


def test_latents_come_from_files_and_from_a_seed(tmp_path: Path) -> None:
    latents = torch.randn(6, 8)
    np.save(tmp_path / "a.npy", latents.numpy())
    save_file({"z": latents, "classes": torch.zeros(6)}, tmp_path / "b.safetensors")
    torch.save(latents, tmp_path / "c.pt")
    for name in ("a.npy", "b.safetensors", "c.pt"):
        assert read_latents(str(tmp_path / name), LocalFiles(), (8,)).equal(latents)
    drawn = read_latents("random:3:6", LocalFiles(), (8,))
    assert drawn.equal(read_latents("random:3:9", LocalFiles(), (8,))[:6])
    assert drawn.shape == (6, 8)


@pytest.mark.parametrize(
    ("where", "why"),
    [
        ("random:0", "expected random:SEED:COUNT"),
        ("{}/none.npy", "no such file"),
        ("{}/photographs", "makes images from latents"),
        ("{}/other.npy", r"expected latents \['n', 8\], got \[4, 7\]"),
        ("{}/broken.npy", "cannot be read as latents"),
        ("{}/nan.npy", "something else than numbers"),
        ("{}/two.safetensors", "holds a, b"),
    ],
)
def test_what_are_no_latents_is_said(where: str, why: str, tmp_path: Path) -> None:
    np.save(tmp_path / "other.npy", np.zeros((4, 7), np.float32))
    np.save(tmp_path / "nan.npy", np.full((4, 8), np.nan, np.float32))
    (tmp_path / "broken.npy").write_bytes(b"nothing")
    save_file({"a": torch.zeros(4, 8), "b": torch.zeros(4, 8)}, tmp_path / "two.safetensors")
    with pytest.raises(ImageSourceError, match=why):
        read_latents(where.format(tmp_path), LocalFiles(), (8,))
