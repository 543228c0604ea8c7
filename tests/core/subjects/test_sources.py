"""Networks of the collections that people take theirs from, tiny and with random weights."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mami_core.errors import SubjectError
from mami_core.sizes import Size
from mami_core.subjects import Trace, list_layers, load_subject, match_layers, subject_of
from mami_core.subjects.sources.torchvision_networks import preprocessing

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
IMAGE = {"image_size": 64, "patch_size": 8}


# --- timm -----------------------------------------------------------------------------------------------------------


def test_a_network_of_timm_comes_with_its_preprocessing() -> None:
    pytest.importorskip("timm", reason="timm is an optional extra")
    subject = load_subject("timm:test_vit", weights="random:0")
    assert subject.name == "timm:test_vit"
    assert subject.input_size == 160
    assert subject.crop == pytest.approx(0.95)
    assert [layer.rpartition(".")[0] for layer in subject.default_layers] == ["blocks"] * len(subject.default_layers)
    with pytest.raises(SubjectError, match=r"no network 'resnet5'.*resnet50"):
        load_subject("timm:resnet5", weights="random:0")


@pytest.mark.parametrize("kind", ["registers", "swin", "convnext", "mixer"])
def test_families_of_timm_are_read(kind: str) -> None:
    timm = pytest.importorskip("timm", reason="timm is an optional extra")
    torch.manual_seed(0)
    if kind == "registers":
        network = timm.models.VisionTransformer(
            img_size=64, patch_size=8, embed_dim=32, depth=2, num_heads=4, reg_tokens=4, qk_norm=True, num_classes=8
        )
    elif kind == "swin":
        network = timm.models.SwinTransformer(
            img_size=64, patch_size=4, embed_dim=16, depths=(1, 1), num_heads=(2, 4), window_size=4, num_classes=8
        )
    elif kind == "convnext":
        network = timm.models.ConvNeXt(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), num_classes=8)
    else:
        network = timm.models.MlpMixer(num_classes=8, img_size=64, patch_size=8, num_blocks=2, embed_dim=32)
    subject = subject_of(network, name=kind, input_size=64)
    infos = {info.name: info for info in list_layers(subject)}
    if kind == "registers":
        assert subject.default_layers == ("blocks.0", "blocks.1")
        assert infos["blocks.1"].num_special == 5
        assert not {"blocks.0.attn.q_norm", "blocks.0.attn.k_norm"} & set(infos)
        assert infos["blocks.0.attn.heads"].num_units == 4
    elif kind == "swin":
        assert [infos[layer].map_size for layer in subject.default_layers][-2:] == [(16, 16), (8, 8)]
        heads = infos["layers.0.blocks.0.attn.heads"]  # inside windows
        assert (heads.num_units, heads.map_size) == (2, (16, 16))
    elif kind == "convnext":
        assert [infos[layer].map_size for layer in subject.default_layers][-3:] == [(8, 8), (4, 4), (2, 2)]
    else:
        assert subject.default_layers == ("blocks.0", "blocks.1")
        assert "blocks.0.mlp_tokens.fc1" not in infos


# --- transformers ---------------------------------------------------------------------------------------------------


def save_tiny(kind: str, folder: Path, *, processor: dict | None = None) -> str:
    transformers = pytest.importorskip("transformers", reason="transformers is an optional extra")
    torch.manual_seed(0)
    made = {
        "vit": lambda: transformers.ViTForImageClassification(transformers.ViTConfig(**SIZES, **IMAGE, num_labels=8)),
        "mae": lambda: transformers.ViTMAEForPreTraining(
            transformers.ViTMAEConfig(**SIZES, **IMAGE, decoder_hidden_size=16, decoder_num_hidden_layers=1)
        ),
        "clip": lambda: transformers.CLIPModel(
            transformers.CLIPConfig(
                text_config={**SIZES, "vocab_size": 50, "max_position_embeddings": 8, "eos_token_id": 2},
                vision_config={**SIZES, **IMAGE},
            )
        ),
        "swin": lambda: transformers.SwinModel(
            transformers.SwinConfig(image_size=64, patch_size=4, embed_dim=16, depths=[1, 1], num_heads=[2, 2])
        ),
        "convnext": lambda: transformers.ConvNextModel(
            transformers.ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1])
        ),
        "dinov3": lambda: transformers.DINOv3ViTModel(
            transformers.DINOv3ViTConfig(**SIZES, **IMAGE, num_register_tokens=4)
        ),
        "beit": lambda: transformers.BeitModel(transformers.BeitConfig(**SIZES, **IMAGE)),
        "deit": lambda: transformers.DeiTModel(transformers.DeiTConfig(**SIZES, **IMAGE)),
        "siglip": lambda: transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**SIZES, **IMAGE)),
    }
    made[kind]().save_pretrained(folder)
    if processor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return f"hf:{folder}"


@pytest.mark.parametrize(
    ("kind", "special"),
    [("vit", 1), ("mae", 1), ("clip", 1), ("dinov3", 5), ("beit", 1), ("deit", 2), ("siglip", 0)],
)
def test_transformers_of_hugging_face_are_read_at_their_blocks(kind: str, special: int, tmp_path: Path) -> None:
    name = save_tiny(kind, tmp_path)
    subject = load_subject(name, input_size=64)
    infos = {info.name: info for info in list_layers(subject)}
    assert len(subject.default_layers) == 2
    for layer in subject.default_layers:
        assert (infos[layer].map_size, infos[layer].num_special, infos[layer].num_units) == ((8, 8), special, 32)
    heads = match_layers(subject, ["heads"])
    assert [infos[layer].num_units for layer in heads if infos[layer].map_size] == [4, 4]
    hidden = match_layers(subject, ["mlp"])
    assert [infos[layer].num_units for layer in hidden if infos[layer].map_size] == [64, 64]
    assert load_subject(name, input_size=64).weights_id == subject.weights_id


@pytest.mark.parametrize("kind", ["swin", "convnext"])
def test_stages_of_hugging_face_networks_are_read_at_their_ends(kind: str, tmp_path: Path) -> None:
    subject = load_subject(save_tiny(kind, tmp_path), input_size=64)
    infos = {info.name: info for info in list_layers(subject)}
    sizes = [infos[layer].map_size for layer in subject.default_layers]
    assert sizes == ([(16, 16), (8, 8)] if kind == "swin" else [(16, 16), (8, 8), (4, 4), (2, 2)])
    assert not any("embedding" in layer for layer in subject.default_layers)


def test_the_processor_beside_a_model_says_what_it_sees(tmp_path: Path) -> None:
    processor = {
        "size": {"shortest_edge": 80},
        "crop_size": {"height": 64, "width": 64},
        "do_center_crop": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.25, 0.25, 0.25],
        "resample": 3,
    }
    name = save_tiny("vit", tmp_path, processor=processor)
    subject = load_subject(name)
    assert (subject.input_size, subject.crop, subject.interpolation) == (64, 0.8, "bicubic")
    assert (subject.mean, subject.std) == ((127.5,) * 3, (63.75,) * 3)
    assert load_subject(name, interpolation="lanczos").size == Size(64, 64, "lanczos")
    for changed, expected in (
        ({"do_normalize": False}, ((0.0,) * 3, (255.0,) * 3)),
        ({"do_center_crop": False, "crop_pct": 0.5, "size": {"shortest_edge": 64}}, ((127.5,) * 3, (63.75,) * 3)),
    ):
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor | changed))
        subject = load_subject(name)
        assert (subject.mean, subject.std) == expected
        assert subject.crop == changed.get("crop_pct", 0.8)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor | {"do_flip_channel_order": True}))
    with pytest.raises(SubjectError, match="blue, green, red"):
        load_subject(name)


@pytest.mark.parametrize(
    ("name", "filter"), [("resnet18", "bilinear"), ("swin_t", "bicubic"), ("efficientnet_b0", "bicubic")]
)
def test_torchvision_says_how_images_are_resized_for_its_weights(name: str, filter: str) -> None:
    assert preprocessing(name, None).interpolation == filter


def test_a_model_that_is_not_here_says_so(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="transformers is an optional extra")
    with pytest.raises(SubjectError, match="could not be had"):
        load_subject(f"hf:{tmp_path}")


# --- others ---------------------------------------------------------------------------------------------------------


def test_a_tower_of_open_clip_is_read() -> None:
    pytest.importorskip("open_clip", reason="open_clip is an optional extra")
    from open_clip.transformer import VisionTransformer

    torch.manual_seed(0)
    tower = VisionTransformer(image_size=64, patch_size=8, width=32, layers=2, heads=4, mlp_ratio=2.0, output_dim=8)
    subject = subject_of(tower, name="tower", input_size=64)
    infos = {info.name: info for info in list_layers(subject)}
    assert subject.default_layers == ("transformer.resblocks.0", "transformer.resblocks.1")
    assert infos["transformer.resblocks.1"].num_special == 1
    assert infos["transformer.resblocks.1.attn.heads"].num_units == 4
    with pytest.raises(SubjectError, match="say which weights"):
        load_subject("openclip:ViT-B-32")


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.act = nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU()
        self.more = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.more(self.act(self.stem(x))).mean((2, 3))


def test_an_exported_program_is_read_as_its_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Small().eval()
    batch = torch.export.Dim("batch")
    program = torch.export.export(network, (torch.zeros(2, 3, 32, 32),), dynamic_shapes={"x": {0: batch}})
    torch.export.save(program, tmp_path / "small.pt2")
    subject = load_subject(f"export:{tmp_path / 'small.pt2'}")
    assert subject.input_size == 32
    x = torch.randn(3, 3, 32, 32)
    with torch.no_grad(), Trace(subject.network, ["stem"]) as outputs:
        subject.network(x)
        torch.testing.assert_close(outputs["stem"], network.stem(x))
    still = torch.export.export(network, (torch.zeros(1, 3, 32, 32),))
    torch.export.save(still, tmp_path / "one.pt2")
    with pytest.raises(SubjectError, match=r"dynamic batch dimension|fails on an input"):
        load_subject(f"export:{tmp_path / 'one.pt2'}")
    with pytest.raises(SubjectError, match="No program at"):
        load_subject(f"export:{tmp_path / 'none.pt2'}")


@pytest.mark.parametrize("name", ["lraspp_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_320_fpn"])
def test_backbones_of_detectors_and_segmenters_are_read(name: str) -> None:
    subject = load_subject(f"torchvision:{name}", weights="random:0", input_size=96)
    assert len(subject.default_layers) >= 3
    assert all(info.map_size for info in list_layers(subject) if info.name in subject.default_layers)


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for module, name, extra in (("timm", "timm:resnet18", "timm"), ("transformers", "hf:x", "hf")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(SubjectError, match=rf"mami\[{extra}\]"):
            load_subject(name)
