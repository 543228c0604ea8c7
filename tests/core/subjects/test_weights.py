"""Weights files as people have them: old ones, wrapped ones, tied ones, and what is none."""

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mami_core.errors import SubjectError
from mami_core.subjects import load_subject, subject_of
from mami_core.subjects.weights import load_weights, read_state_dict
from tests.core.subjects.networks import Around, plain


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight


def put(value: object, file: Path) -> str:
    torch.save(value, file)
    return str(file)


def loaded(network: nn.Module, file: str) -> dict[str, Tensor]:
    load_weights(network, read_state_dict(file), where=file)
    return network.state_dict()


@pytest.mark.parametrize(
    ("prefix", "within"),
    [
        ("", None),
        ("model.", None),
        ("_orig_mod.", None),
        ("module._orig_mod.", "state_dict"),
        ("net.model.", "model"),
        ("", "model_ema"),
    ],
)
def test_prefixes_and_checkpoints_of_training_are_taken_off(
    tmp_path: Path, prefix: str, within: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    state = {f"{prefix}{name}": tensor + 1 for name, tensor in plain().state_dict().items()}
    file = put({within: state, "epoch": 3} if within else state, tmp_path / "w.pth")
    with caplog.at_level(logging.INFO):
        found = loaded(plain(), file)
    assert all(tensor.equal(state[f"{prefix}{name}"]) for name, tensor in found.items())
    assert bool(prefix) == any("taken off" in record.message and prefix in record.message for record in caplog.records)


def test_an_averaged_models_counter_is_no_weight(tmp_path: Path) -> None:
    averaged = torch.optim.swa_utils.AveragedModel(plain())
    found = loaded(plain(), put(averaged.state_dict(), tmp_path / "ema.pt"))
    assert found.keys() == plain().state_dict().keys()


def test_files_from_before_batch_norms_counted_load(tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in plain().state_dict().items() if "num_batches_tracked" not in name}
    assert len(state) < len(plain().state_dict())
    assert loaded(plain(), put(dict(state), tmp_path / "old.pth"))["0.0.weight"].equal(state["0.0.weight"])


def test_tied_tensors_are_taken_from_either_name(tmp_path: Path) -> None:
    state = Tied().state_dict()
    del state["second.weight"]
    save_file({name: tensor + 1 for name, tensor in state.items()}, tmp_path / "t.safetensors")
    found = loaded(Tied(), str(tmp_path / "t.safetensors"))
    assert found["second.weight"].equal(state["first.weight"] + 1)


def test_extra_state_is_forgiven(tmp_path: Path) -> None:
    network = Around(plain())
    state = network.state_dict()
    assert loaded(Around(plain()), put(dict(state), tmp_path / "e.pth"))["net.0.0.weight"].equal(
        state["net.0.0.weight"]
    )


def test_a_prefix_does_not_hide_what_is_missing(tmp_path: Path) -> None:
    state = {f"model.{name}": tensor for name, tensor in plain().state_dict().items() if name != "0.0.weight"}
    with pytest.raises(SubjectError, match=r"missing: 0\.0\.weight"):
        loaded(plain(), put(state, tmp_path / "w.pth"))


def test_what_is_no_weights_file_says_what_it_is(tmp_path: Path) -> None:
    pointer = tmp_path / "w.safetensors"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n")
    with pytest.raises(SubjectError, match=r"Git-LFS pointer.*git lfs pull"):
        read_state_dict(str(pointer))
    with pytest.warns(FutureWarning, match="deprecated"):
        torch.jit.save(torch.jit.trace(plain().eval(), torch.zeros(1, 3, 32, 32)), tmp_path / "script.pt")
    with pytest.raises(SubjectError, match="TorchScript archive"):
        read_state_dict(str(tmp_path / "script.pt"))
    save_file({"a": torch.ones(2)}, tmp_path / "other.pth")
    assert read_state_dict(str(tmp_path / "other.pth"))["a"].equal(torch.ones(2)), "what it is shows inside"


def test_a_file_gets_the_preprocessing_that_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    name = "torchvision:resnet50"
    file = put(load_subject(name, weights="random:0", input_size=64).network.state_dict(), tmp_path / "r.pth")
    with caplog.at_level(logging.WARNING):
        default = load_subject(name, weights=file)
    assert "IMAGENET1K_V2" in caplog.text
    assert "--preprocessing" in caplog.text
    first = load_subject(name, weights=file, preprocessing="IMAGENET1K_V1")
    assert default.crop == pytest.approx(224 / 232)
    assert first.crop == 0.875
    with pytest.raises(SubjectError, match="no weights 'V7'"):
        load_subject(name, weights=file, preprocessing="V7")
    with pytest.raises(SubjectError, match="no weights 'IMAGENET1K_V9'"):
        load_subject(name, weights="IMAGENET1K_V9")


def wants_arguments(width: int) -> nn.Module:
    return nn.Conv2d(3, width, 3)


def test_a_factory_that_wants_arguments_is_refused() -> None:
    with pytest.raises(SubjectError, match=r"wants arguments \(width\)"):
        load_subject("python:tests.core.subjects.test_weights:wants_arguments")


def test_a_subject_says_its_shape() -> None:
    assert subject_of(plain(), name="wide", input_size=(32, 64)).input_shape == (3, 32, 64)
