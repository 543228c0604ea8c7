"""Networks as encoders."""

import dataclasses
import functools
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mami_core.errors import ConfigError, SubjectError
from mami_core.features import EncoderConfig, load_encoder, numbers_of_forms, numbers_of_looks, place, pool
from mami_core.features.forms import NUM_FORMS, form_shares
from mami_core.features.looks import look_maps
from mami_core.features.pooling import NUM_PLACE
from mami_core.subjects import Trace, load_subject
from tests import tiny

loaded = functools.cache(load_encoder)
"""An encoder is only read: once loaded, it serves every test."""

RESNET = EncoderConfig(name="torchvision:resnet18", weights="random:0", input_size=64)

SMALL = EncoderConfig(name=tiny.ENCODER, weights="random:0", input_size=64)


def some_pixels(count: int, size: int) -> torch.Tensor:
    return torch.randint(256, (count, 3, size, size), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("config", "levels", "channels", "sides"),
    [
        (
            EncoderConfig(),
            tuple(f"_blocks.{number}" for number in (0, 3, 6, 14, 19)),
            (16, 24, 48, 120, 208),
            (128, 64, 32, 16, 8),
        ),
        (
            EncoderConfig(name="torchvision:resnet18", weights="random:0"),
            ("conv1", "layer1", "layer2", "layer3", "layer4"),
            (64, 64, 128, 256, 512),
            (112, 56, 28, 14, 7),
        ),
        (
            EncoderConfig(name="torchvision:squeezenet1_1", weights="random:0"),
            ("features.1", "features.4", "features.7", "features.12"),
            (64, 128, 256, 512),
            (111, 55, 27, 13),
        ),
        (
            EncoderConfig(name="torchvision:mobilenet_v2", weights="random:0"),
            # where stages end, which are not the units labelled by default
            ("features.1", "features.3", "features.6", "features.13", "features.18"),
            (16, 24, 32, 96, 1280),
            (112, 56, 28, 14, 7),
        ),
    ],
)
def test_families_have_a_level_at_each_size(
    config: EncoderConfig, levels: tuple[str, ...], channels: tuple[int, ...], sides: tuple[int, ...]
) -> None:
    encoder = load_encoder(config)
    pyramid = encoder.pyramid(some_pixels(2, encoder.input_size))
    assert encoder.levels == levels
    assert encoder.level_channels == channels
    assert encoder.num_features == sum(channels)
    assert encoder.region_size == sides[0]
    assert [level.shape for level in pyramid] == [
        (2, width, side, side) for width, side in zip(channels, sides, strict=True)
    ]
    regions = torch.rand(3, sides[0], sides[0]) > 0.5
    assert encoder.pool([level[1] for level in pyramid], regions).shape == (3, sum(channels))


def test_resnet101_has_the_papers_features() -> None:
    encoder = load_encoder(EncoderConfig(name="torchvision:resnet101", weights="random:0", input_size=32))
    assert encoder.num_features == 3904


def test_the_pyramid_is_what_the_network_gives_up_to_rounding() -> None:
    config = dataclasses.replace(EncoderConfig(name="efficientnet_lite0"), input_size=64)
    encoder = load_encoder(config)
    subject = load_subject("efficientnet_lite0", input_size=64)
    pixels = some_pixels(2, 64)
    with torch.inference_mode(), Trace(subject.network, encoder.levels) as outputs:
        subject.network(subject.normalise(pixels))
    for level, found in zip(outputs.values(), encoder.pyramid(pixels), strict=True):
        torch.testing.assert_close(found, level, rtol=1e-4, atol=1e-4 * level.abs().max().item())


def test_saturating_levels_are_read_as_they_are() -> None:
    encoder = load_encoder(
        EncoderConfig(name="torchvision:mobilenet_v2", weights="random:0", input_size=32, levels=("features.0",))
    )
    (level,) = encoder.pyramid(some_pixels(1, 32))
    assert level.min() == 0
    assert level.max() <= 6


def test_an_images_pyramid_does_not_depend_on_its_neighbours() -> None:
    encoder = loaded(RESNET)
    pixels = some_pixels(4, 64)
    alone = torch.zeros_like(pixels)
    alone[0] = pixels[2]
    for together, by_itself in zip(encoder.pyramid(pixels), encoder.pyramid(alone), strict=True):
        assert together[2].equal(by_itself[0])


def test_levels_can_be_chosen() -> None:
    encoder = load_encoder(dataclasses.replace(RESNET, levels=("layer2", "layer1.*.bn2")))
    assert encoder.levels == ("layer1.0.bn2", "layer1.1.bn2", "layer2")
    assert encoder.num_features == 64 + 64 + 128


def test_levels_that_are_no_maps_are_refused() -> None:
    with pytest.raises(SubjectError, match="fc of torchvision:resnet18 give vectors"):
        load_encoder(dataclasses.replace(RESNET, levels=("layer1", "fc")))
    with pytest.raises(SubjectError, match=r"Nearest: .*layer4"):
        load_encoder(dataclasses.replace(RESNET, levels=("layer44",)))


def test_pooling_is_as_configured() -> None:
    encoder = load_encoder(dataclasses.replace(RESNET, pooling="bilinear"))
    levels = [level[0] for level in encoder.pyramid(some_pixels(1, 64))]
    region = torch.zeros(1, 32, 32, dtype=torch.bool)
    region[0, 0, 0] = True
    assert encoder.pool(levels, region).equal(pool(levels, region, pooling="bilinear"))
    assert not encoder.pool(levels, region).equal(pool(levels, region, pooling="area"))


def test_the_whole_image_and_the_place_are_appended_where_asked_for() -> None:
    alone = {"place": True, "scene": True, "forms": True}
    plain, full = loaded(RESNET), load_encoder(dataclasses.replace(RESNET, **alone))
    levels = [level[0] for level in full.pyramid(some_pixels(1, 64))]
    regions = torch.rand(20, 32, 32) > 0.9
    found = full.pool(levels, regions)
    scene = pool(levels, torch.ones(1, 32, 32)).expand(20, -1)
    assert found.equal(torch.cat([plain.pool(levels, regions), scene, form_shares(regions), place(regions)], 1))
    assert full.num_features == found.shape[1] == 2 * plain.num_features + NUM_FORMS + NUM_PLACE
    forms = numbers_of_forms(full.config, full.num_features)
    assert {full.level_of(column) for column in forms} == {"forms"}
    assert found[:, forms.start : forms.stop].equal(form_shares(regions))


@pytest.mark.parametrize("place", [False, True])
@pytest.mark.parametrize("scene", [False, True])
def test_what_pixels_tell_is_a_level_where_asked_for(*, scene: bool, place: bool) -> None:
    config = dataclasses.replace(SMALL, input_size=256, scene=scene, place=place)
    plain, full = load_encoder(config), load_encoder(dataclasses.replace(config, looks=True))
    pixels = some_pixels(3, 256)
    levels = full.pyramid(pixels)
    assert levels[-1].equal(look_maps(pixels).float())
    regions = torch.rand(20, full.region_size, full.region_size) > 0.9
    found = full.pool([level[1] for level in levels], regions)
    columns = numbers_of_looks(full.config, full.num_features)
    assert found.shape[1] == full.num_features
    assert found[:, columns.start : columns.stop].equal(pool([levels[-1][1]], regions))
    names = [full.level_of(column) for column in range(full.num_features)]
    others = [column for column, name in enumerate(names) if name != "looks"]
    assert found[:, others].equal(plain.pool([level[1] for level in levels[:-1]], regions))
    assert [names[column] for column in others] == [plain.level_of(column) for column in range(plain.num_features)]
    assert len(numbers_of_looks(plain.config, plain.num_features)) == 0


def test_looks_are_refused_at_another_size() -> None:
    with pytest.raises(ConfigError, match=r"looks: read off 256 pixels.*has 64.*--encoder-input-size 256"):
        load_encoder(dataclasses.replace(SMALL, looks=True))


def test_the_id_changes_with_whatever_changes_the_features(tmp_path: Path) -> None:
    assert load_encoder(SMALL).id == load_encoder(SMALL).id
    state = load_subject(SMALL.name, weights=SMALL.weights).network.state_dict()
    state["last.0.bias"] = state["last.0.bias"] + 1
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, tmp_path / "other.safetensors")
    others = [
        dataclasses.replace(SMALL, weights=str(tmp_path / "other.safetensors")),
        dataclasses.replace(SMALL, input_size=96),
        dataclasses.replace(SMALL, levels=("clamped", "last")),
        dataclasses.replace(SMALL, pooling="bilinear"),
        dataclasses.replace(SMALL, place=True),
        dataclasses.replace(SMALL, scene=True),
        dataclasses.replace(SMALL, place=True, scene=True),
        dataclasses.replace(SMALL, input_size=256),
        dataclasses.replace(SMALL, input_size=256, looks=True),
        dataclasses.replace(SMALL, forms=True),
    ]
    assert len({load_encoder(config).id for config in [SMALL, *others]}) == 11


def test_the_id_does_not_change_with_where_weights_lie_or_defaults_are_spelled_out(tmp_path: Path) -> None:
    state = load_subject(SMALL.name, weights=SMALL.weights).network.state_dict()
    for name in ("one", "other"):
        save_file({key: tensor.contiguous() for key, tensor in state.items()}, tmp_path / f"{name}.safetensors")
    ids = {
        load_encoder(dataclasses.replace(SMALL, weights=str(tmp_path / f"{name}.safetensors"))).id
        for name in ("one", "other")
    }
    spelled_out = dataclasses.replace(SMALL, levels=("clamped", "stage.deep", "last"))
    assert ids | {load_encoder(spelled_out).id} == {load_encoder(SMALL).id}


def test_impossible_settings_are_refused() -> None:
    read_from_a_file = EncoderConfig()
    object.__setattr__(read_from_a_file, "pooling", "max")  # around the check of types, which tests alone run with
    with pytest.raises(ConfigError, match="'area' or 'bilinear', got 'max'"):
        read_from_a_file.__post_init__()
    with pytest.raises(ConfigError, match="at least 32 pixels"):
        EncoderConfig(input_size=8)
