"""A name → a network with its weights and what it expects of an image."""

import os
import pickle
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from mami_core.errors import ConfigError, SubjectError
from mami_core.images import decode
from mami_core.subjects import Subject, list_torchvision, load_subject, subject_of
from mami_core.subjects.weights import weights_id

SQUEEZENET = "torchvision:squeezenet1_1"


def make_network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3))


def make_subject() -> Subject:
    return subject_of(make_network(), name="mine", input_size=32, crop=0.5, mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0))


def make_trouble() -> nn.Module:
    raise RuntimeError("no weights at /nowhere")


def make_nothing() -> None:
    return None


NOT_A_FUNCTION = 3


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(sys.modules, "tests_subject_factories", sys.modules[__name__])
    return "python:tests_subject_factories"


@pytest.fixture(scope="module")
def squeezenet() -> dict[str, Tensor]:
    return load_subject(SQUEEZENET, weights="random:7").network.state_dict()


# --- what comes out ----------------------------------------------------------------------------------------------


def test_a_subject_is_ready_to_be_read() -> None:
    subject = load_subject(SQUEEZENET, weights="random:0")
    assert subject.name == SQUEEZENET
    assert (subject.input_size, subject.crop) == (224, 0.875)
    assert not any(module.training for module in subject.network.modules())
    assert not any(parameter.requires_grad for parameter in subject.network.parameters())
    weight = subject.network.get_parameter("features.0.weight")
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_pixels_are_normalised_on_their_own_scale() -> None:
    subject = make_subject()
    pixels = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    given = subject.normalise(pixels)
    expected = (pixels.double() - torch.tensor([1.0, 2, 3]).view(3, 1, 1)) / torch.tensor([4.0, 5, 6]).view(3, 1, 1)
    torch.testing.assert_close(given.double(), expected, rtol=1e-6, atol=1e-6)
    assert given.is_contiguous(memory_format=torch.channels_last)


def test_preprocessing_comes_with_the_weights_and_can_be_set() -> None:
    first = load_subject("torchvision:resnet50", weights="random:0")
    assert first.mean == pytest.approx([255 * value for value in (0.485, 0.456, 0.406)])
    assert first.std == pytest.approx([255 * value for value in (0.229, 0.224, 0.225)])
    assert first.crop == pytest.approx(224 / 232)
    other = load_subject(
        SQUEEZENET, weights="random:0", input_size=100, crop=1.0, mean=(0.0, 0.0, 0.0), std=(255.0, 255.0, 255.0)
    )
    assert (other.input_size, other.crop, other.mean, other.std) == (100, 1.0, (0.0,) * 3, (255.0,) * 3)


def test_impossible_preprocessing_is_refused() -> None:
    with pytest.raises(ConfigError, match="multiply those for 0 to 1 by 255"):
        load_subject(SQUEEZENET, weights="random:0", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    with pytest.raises(ConfigError, match="0 < crop ≤ 1"):
        load_subject(SQUEEZENET, weights="random:0", crop=1.5)


def test_every_torchvision_classifier_is_known() -> None:
    names = list_torchvision()
    assert {"resnet152", "vit_b_16", "squeezenet1_0", "convnext_tiny"} <= set(names)
    assert not {"fcn_resnet50", "raft_large"} & set(names), "no detectors or others"


@pytest.mark.parametrize("name", ["googlenet", "inception_v3", "mnasnet0_5", "maxvit_t"])
def test_torchvision_networks_are_built_without_a_warning_and_run(name: str) -> None:
    subject = load_subject(f"torchvision:{name}", weights="random:0")
    pixels = torch.zeros(1, 3, subject.input_size, subject.input_size, dtype=torch.uint8)
    with torch.inference_mode():
        assert subject.network(subject.normalise(pixels)).shape == (1, 1000)


# --- names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("resnet152", "torchvision:resnet152"),
        ("torchvision:resnet15", "resnet152"),
        ("efficientnet_lite5", "efficientnet_lite"),
        ("tim:resnet50", "torchvision:resnet50"),
        ("efficientnet-lite0", "efficientnet_lite0"),
    ],
)
def test_an_unknown_name_comes_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(SubjectError, match=f"'{name.removeprefix('torchvision:')}'.*Nearest: .*{nearest}"):
        load_subject(name)


def test_ones_own_network_is_loaded_by_its_factory(importable: str) -> None:
    subject = load_subject(f"{importable}:make_network", weights="random:3", input_size=40)
    assert subject.name == f"{importable}:make_network"
    assert (subject.input_size, subject.default_layers) == (40, ("2", "3"))
    assert subject.weights_id == load_subject(f"{importable}:make_network", weights="random:3").weights_id


def test_a_factory_may_give_a_whole_subject(importable: str) -> None:
    subject = load_subject(f"{importable}:make_subject", crop=0.75)
    assert (subject.input_size, subject.crop, subject.mean) == (32, 0.75, (1.0, 2.0, 3.0))
    assert subject.name == f"{importable}:make_subject"


@pytest.mark.parametrize(
    ("path", "why"),
    [
        (":make_netwrk", "no function 'make_netwrk'.*make_network"),
        (":NOT_A_FUNCTION", "no function 'NOT_A_FUNCTION'"),
        (":make_nothing", "returned a NoneType"),
        (":make_trouble", "make_trouble' raised RuntimeError: no weights at /nowhere"),
        ("_absent:make", "No module named"),
        ("", "expected python:MODULE:FACTORY"),
    ],
)
def test_a_factory_that_cannot_be_used_says_why(importable: str, path: str, why: str) -> None:
    with pytest.raises(SubjectError, match=why):
        load_subject(importable + path)


def test_missing_lite_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(SubjectError, match=r"mami\[lite\]"):
        load_subject("efficientnet_lite0")


# --- weights -----------------------------------------------------------------------------------------------------


def test_random_weights_follow_from_their_seed_alone() -> None:
    state = torch.random.get_rng_state()
    first = load_subject(SQUEEZENET, weights="random:1")
    assert torch.random.get_rng_state().equal(state), "the caller's own random numbers go on undisturbed"
    torch.manual_seed(5)
    assert load_subject(SQUEEZENET, weights="random:1").weights_id == first.weights_id
    assert load_subject(SQUEEZENET, weights="random:2").weights_id != first.weights_id
    assert load_subject("efficientnet_lite0", weights="random:1", input_size=64).weights_id == (
        load_subject("efficientnet_lite0", weights="random:1").weights_id
    )


@pytest.mark.parametrize("weights", ["random:", "random:x", "random:-1"])
def test_a_seed_is_a_whole_number(weights: str) -> None:
    with pytest.raises(SubjectError, match="random:SEED"):
        load_subject(SQUEEZENET, weights=weights)


def test_the_id_is_the_weights_alone_and_all_of_them() -> None:
    network = make_network()
    first = weights_id(network)
    assert len(first) == 16
    assert weights_id(network.to(memory_format=torch.channels_last)) == first
    assert weights_id(make_network()) != first
    other = make_network()
    other.load_state_dict(network.state_dict())
    assert weights_id(other) == first
    other.get_buffer("1.running_mean")[3] += 1e-6
    assert weights_id(other) != first


def test_local_files_hold_the_same_weights_in_every_format(tmp_path: Path, squeezenet: dict[str, Tensor]) -> None:
    contiguous = {name: tensor.contiguous() for name, tensor in squeezenet.items()}
    save_file(contiguous, tmp_path / "a.safetensors")
    torch.save(squeezenet, tmp_path / "b.pth")
    torch.save(
        {"epoch": 3, "state_dict": {f"module.{name}": tensor for name, tensor in squeezenet.items()}}, tmp_path / "c.pt"
    )
    ids = {
        load_subject(SQUEEZENET, weights=str(tmp_path / name)).weights_id for name in ("a.safetensors", "b.pth", "c.pt")
    }
    assert ids == {load_subject(SQUEEZENET, weights="random:7").weights_id}


def test_a_file_may_have_another_number_of_classes(tmp_path: Path) -> None:
    save_file(torchvision.models.resnet18(num_classes=365).state_dict(), tmp_path / "places.safetensors")
    subject = load_subject("torchvision:resnet18", weights=str(tmp_path / "places.safetensors"))
    assert subject.network.get_parameter("fc.bias").shape == (365,)


@pytest.mark.parametrize("auxiliary", [False, True])
def test_files_with_and_without_training_heads_load(tmp_path: Path, auxiliary: bool) -> None:
    state = torchvision.models.googlenet(aux_logits=auxiliary, init_weights=False).state_dict()
    save_file(state, tmp_path / "g.safetensors")
    network = load_subject("torchvision:googlenet", weights=str(tmp_path / "g.safetensors")).network
    assert network.transform_input, "as torchvision sets it for its own weights"
    assert all(network.state_dict()[name].equal(tensor) for name, tensor in state.items())


def test_densenet_files_with_their_old_names_load(tmp_path: Path) -> None:
    state = load_subject("torchvision:densenet121", weights="random:0").network.state_dict()
    old = {
        name.replace("norm1.", "norm.1.").replace("conv2.", "conv.2.") if "denselayer" in name else name: tensor
        for name, tensor in state.items()
    }
    assert any("norm.1.weight" in name for name in old)
    save_file({name: tensor.contiguous() for name, tensor in old.items()}, tmp_path / "d.safetensors")
    network = load_subject("torchvision:densenet121", weights=str(tmp_path / "d.safetensors")).network
    assert network.state_dict().keys() == state.keys()


def test_weights_that_do_not_fit_are_named(tmp_path: Path, squeezenet: dict[str, Tensor]) -> None:
    state = {name: tensor.contiguous() for name, tensor in squeezenet.items()}
    del state["features.3.squeeze.bias"]
    state["features.0.weight"] = torch.zeros(64, 3, 5, 5)
    state["extra"] = torch.zeros(1)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(SubjectError) as raised:
        load_subject(SQUEEZENET, weights=str(tmp_path / "w.safetensors"))
    message = str(raised.value)
    assert "missing: features.3.squeeze.bias;" in message
    assert "not in the network: extra;" in message
    assert "features.0.weight (64, 3, 5, 5), expected (64, 3, 3, 3)" in message
    assert "w.safetensors" in message


class Payload:
    """Would create a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_nothing_but_tensors_is_unpickled(tmp_path: Path) -> None:
    torch.save({"features.0.weight": Payload(tmp_path / "run")}, tmp_path / "w.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Payload(tmp_path / "run"), protocol=2))
    for name in ("w.pth", "plain.pth"):
        with pytest.raises(SubjectError, match="unpickling it could run anything"):
            load_subject(SQUEEZENET, weights=str(tmp_path / name))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kept", [0, 100, 4000])
def test_truncated_files_are_refused(tmp_path: Path, squeezenet: dict[str, Tensor], suffix: str, kept: int) -> None:
    whole = tmp_path / f"whole{suffix}"
    if suffix == ".pth":
        torch.save(squeezenet, whole)
    else:
        save_file({name: tensor.contiguous() for name, tensor in squeezenet.items()}, whole)
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(whole.read_bytes()[:kept])
    with pytest.raises(SubjectError, match="cut"):
        load_subject(SQUEEZENET, weights=str(cut))


def test_files_that_hold_no_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SubjectError, match="No weights at"):
        load_subject(SQUEEZENET, weights=str(tmp_path / "absent.pth"))
    torch.save([torch.zeros(3)], tmp_path / "list.pth")
    with pytest.raises(SubjectError, match="holds no state dict"):
        load_subject(SQUEEZENET, weights=str(tmp_path / "list.pth"))


def test_a_download_that_fails_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_args: object, **_options: object) -> None:
        raise urllib.error.URLError("no route")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", unreachable)
    for weights in (None, "IMAGENET1K_V1"):
        with pytest.raises(SubjectError, match=r"no route.*weights=FILE"):
            load_subject("torchvision:resnet18", weights=weights)


def test_torchvisions_downloaded_weights_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torchvision's own loading, from its own cache: everything but the wire."""
    published = torchvision.models.get_model_weights("squeezenet1_1")["DEFAULT"]
    state = load_subject(SQUEEZENET, weights="random:9").network.state_dict()
    monkeypatch.setattr(type(published), "get_state_dict", lambda *_args, **_options: state)
    assert load_subject(SQUEEZENET).weights_id == load_subject(SQUEEZENET, weights="random:9").weights_id


# --- real networks -----------------------------------------------------------------------------------------------


def test_lite_networks_recognise_photographs_at_any_input_size(shared_data: Path) -> None:
    files = sorted((shared_data / "images" / "imagenet1k_sample").iterdir())
    classes = {name: number for number, name in enumerate(sorted({file.name.split("_")[0] for file in files}))}
    some = files[::25]
    truth = torch.tensor([classes[file.name.split("_")[0]] for file in some])
    for name, size in (("efficientnet_lite0", None), ("efficientnet_lite2", 256)):
        subject = load_subject(name, input_size=size)
        pixels = torch.stack([decode(file.read_bytes(), sizes=[subject.input_size], crop=1.0)[0] for file in some])
        with torch.inference_mode():
            found = subject.network(subject.normalise(pixels)).argmax(1)
        assert (found == truth).float().mean() > 0.7, name
