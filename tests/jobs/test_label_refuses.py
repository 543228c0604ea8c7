"""What a labelling job refuses: with one clear line, and before any work."""

import dataclasses
import os
import re
import shutil
import sys
from pathlib import Path

import boto3
import pytest
import torch
from safetensors.torch import save_file

from jobs import label
from jobs.engine import runtime
from jobs.label import LabelJob
from mami_core.errors import ConfigError, SubjectError
from mami_core.features import EncoderConfig
from mami_core.subjects import load_subject
from tests import tiny
from tests.jobs.faultproxy import FaultProxy
from tests.jobs.tables import snapshot
from tests.jobs.tiny_label import arguments, run_folder, unwanted, work_here


def test_an_option_given_twice_is_refused(capsys: pytest.CaptureFixture) -> None:
    words = ["--subject", "a", "--subject", "b", "--images", "i", "--captioner", "c", "--layers", "x", "--layers", "y"]
    assert runtime.main(LabelJob, unwanted, words) == 2
    assert "--layers is given 2 times" in capsys.readouterr().err


def refused(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> str:
    """The one line that a job ends with, before any work."""
    monkeypatch.setattr(runtime, "connect", unwanted)
    assert runtime.main(LabelJob, label.run, words) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "INFO" not in line]
    assert lines[0].startswith("Error: ")
    return "\n".join(lines)


BAD: dict[str, tuple[dict[str, str], str]] = {
    "unknown subject": ({"subject": "resnet500"}, "Unknown subject 'resnet500'.*Nearest: torchvision:resnet50"),
    "unknown lite": ({"subject": "eficientnet_lite0"}, "Nearest: efficientnet_lite0"),
    "unknown torchvision": ({"subject": "torchvision:resnet51"}, "resnet50"),
    "unknown function": ({"subject": "python:tests.tiny:netwrok"}, "no function 'netwrok'.*network"),
    "unknown module": ({"subject": "python:no_such_module:make"}, "No module named 'no_such_module'"),
    "unknown layer": ({"layers": "stage.dep"}, "no layer 'stage.dep'.*stage.deep"),
    "no weights": ({"weights": "/no/such.safetensors"}, "No weights at '/no/such.safetensors'"),
    "no images": ({"images": "/no/such/folder"}, "/no/such/folder: no such file or folder"),
    "no bucket": ({"images": "s3://no-such-bucket-at-all/x"}, "no-such-bucket-at-all"),
    "no storage": ({"images": "ftp://host/x"}, "ftp://host/x: expected a folder or s3://"),
    "a file": ({"subject": "python:tests/tiny.py:network"}, "not a file: python:tests.tiny:network"),
    "no output": ({"output": "gs://bucket/x"}, "gs://bucket/x: expected a folder or s3://"),
    "no captioner": ({"captioner": "/no/such/captioner"}, "/no/such/captioner: expected config.json"),
    "k": ({"k": "0"}, "k and batch_size of at least 1"),
    "quantile": ({"quantile": "1.5"}, "quantile between 0 and 1"),
    "beam": ({"beam_size": "0"}, "beam_size must be at least 1"),
    "items": ({"images_per_item": "0"}, "images_per_item and neurons_per_item must be at least 1"),
    "crop": ({"crop": "1.5"}, "crop"),
    "twice": ({"subject": (tiny.SUBJECT, tiny.SUBJECT)}, "different subjects"),  # type: ignore[dict-item]
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_clear_line_before_any_work(
    name: str,
    job: LabelJob,
    proxy: FaultProxy,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    changes, message = BAD[name]
    said = refused(arguments(job, **changes), monkeypatch, capsys)
    assert len(said.splitlines()) == 1
    assert re.search(message, said), said
    assert not Path(str(job.output)).exists(), "nothing was begun"


def test_a_folder_without_images_is_refused(
    job: LabelJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "readme.md").write_text("no pictures here")
    said = refused(arguments(job, images=str(tmp_path / "notes")), monkeypatch, capsys)
    assert "no image among its files (1)" in said


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_refused(
    job: LabelJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    assert "permission denied" in refused(arguments(job, images=str(tmp_path / "closed")), monkeypatch, capsys)


def test_an_output_that_is_a_file_is_refused(
    job: LabelJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    said = refused(arguments(job, output=str(tmp_path / "file" / "run")), monkeypatch, capsys)
    assert "a file stands where a folder is needed" in said


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", None, "there is no config.json"),
        ("config.json", b"{", "config.json is not the JSON that jobs.train writes"),
        ("captioner.safetensors", b"half", "expected a whole safetensors file, found"),
        ("captioner.safetensors", b"\x80\x04\x95pickle", "Pickles are never read"),
        ("language_model.safetensors", b"", "language_model.safetensors"),
    ],
)
def test_a_broken_captioner_is_refused(
    name: str,
    content: bytes | None,
    message: str,
    job: LabelJob,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    folder = shutil.copytree(job.captioner, tmp_path / "broken")
    file = folder / name
    if content is None:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-100] if content == b"half" else content)
    said = refused(arguments(job, captioner=str(folder)), monkeypatch, capsys)
    assert message in said
    assert str(folder) in said
    assert len(said.splitlines()) == 1


def save_encoder(file: Path, factor: float) -> str:
    state = {name: tensor.contiguous() for name, tensor in load_subject(tiny.ENCODER).network.state_dict().items()}
    save_file({name: factor * tensor for name, tensor in state.items()}, file)
    return str(file)


def test_a_captioner_of_another_encoder_is_refused(
    job: LabelJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    other = save_encoder(tmp_path / "other.safetensors", 2)
    said = refused([*arguments(job), "--encoder-weights", other], monkeypatch, capsys)
    assert "reads features of encoder" in said
    assert "Use the weights that the captioner was trained with" in said


def test_the_encoders_weights_may_have_moved(job: LabelJob, tmp_path: Path, bucket: str) -> None:
    file = save_encoder(tmp_path / "encoder.safetensors", 1)
    config = EncoderConfig(name=tiny.ENCODER, weights=file)
    tiny.write_captioner(tmp_path / "captioner", tiny.captioner(config))
    job = dataclasses.replace(job, captioner=str(tmp_path / "captioner"))
    storage = work_here(job)
    moved = Path(file).rename(tmp_path / "moved.safetensors")
    with pytest.raises(SubjectError, match="No weights at"):
        job.prepare()
    boto3.client("s3").upload_file(str(moved), bucket.removeprefix("s3://"), "moved.safetensors")
    for place in (str(moved), f"{bucket}/moved.safetensors"):
        again = dataclasses.replace(job, encoder_weights=place, output=str(tmp_path / f"run-{len(place)}"))
        assert run_folder(work_here(again)) == run_folder(storage), "their place changes nothing"


def test_a_folder_with_another_run_is_refused(
    job: LabelJob, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    storage = work_here(job)
    before = snapshot(storage)
    said = refused(arguments(job, k="5", beam_size="7", layers="clamped"), monkeypatch, capsys)
    assert "holds a run with another configuration" in said
    assert "search.k: 4 there, 5 now" in said
    assert "decode.beam_size: 4 there, 7 now" in said
    assert "layers.scores: 16 there, absent now" in said
    assert "quantile" not in said
    assert snapshot(storage) == before


def test_a_subject_that_is_never_the_same_is_refused(job: LabelJob) -> None:
    with pytest.raises(SubjectError, match="other weights each time it is made"):
        work_here(dataclasses.replace(job, subject=("python:tests.tiny:restless",)))


def test_a_copy_of_the_images_is_called_one(
    job: LabelJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    work_here(job)
    copy = shutil.copytree(job.images, tmp_path / "copy")
    for number, file in enumerate(sorted(copy.rglob("*.png"))):
        os.utime(file, ns=(number, number))
    said = refused(arguments(job, images=str(copy)), monkeypatch, capsys)
    assert "images.fingerprint: the images have the same names and sizes as there, but other times" in said
    assert "copy them with their times" in said
    assert not re.search("[0-9a-f]{64}", said)
    next(copy.rglob("*.png")).write_bytes(b"other")
    said = refused(arguments(job, images=str(copy)), monkeypatch, capsys)
    assert "images.fingerprint: other images than there" in said
    assert not re.search("[0-9a-f]{64}", said)


def test_a_run_that_is_refused_late_leaves_no_file(
    job: LabelJob, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def no_ray() -> None:
        raise ConfigError("Could not connect to the Ray cluster")

    monkeypatch.setattr(runtime, "connect", no_ray)
    assert runtime.main(LabelJob, label.run, arguments(job)) == runtime.BAD_INPUT
    assert "Could not connect" in capsys.readouterr().err
    assert not Path(str(job.output)).exists()


@pytest.mark.parametrize(
    ("address", "options", "message"),
    [
        ("http://127.0.0.1:8265", {}, "where jobs are submitted"),
        ("", {"num_gpus": "1"}, "torch finds no GPU on this machine"),
        ("", {"num_gpus": "-1"}, "num_gpus: expected 0 or more, got -1"),
        ("", {"num_cpus": "0"}, "num_cpus: expected more than 0"),
    ],
)
def test_workers_that_there_cannot_be_are_refused_before_ray_starts(
    address: str,
    options: dict[str, str],
    message: str,
    job: LabelJob,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setitem(sys.modules, "ray", None)  # no Ray of another test
    assert message in refused(arguments(job, **options), monkeypatch, capsys)
    assert not Path(str(job.output)).exists()


def test_an_unsafe_number_of_subjects_is_refused() -> None:
    with pytest.raises(ConfigError, match="Which network"):
        LabelJob(images="x", captioner="y").subject_specs()
