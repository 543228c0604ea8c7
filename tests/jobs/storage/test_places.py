"""Addresses among a job's settings mean what they meant where the job was given."""

import dataclasses
from pathlib import Path

import pytest

from jobs import __main__ as mami
from jobs.engine.options import field_docs
from jobs.evaluate import EvaluateJob
from jobs.label import LabelJob
from jobs.storage.places import settle, settled
from jobs.train import TrainJob
from mami_core.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "folder", "expected"),
    [
        ("a/b", "/lists", "/lists/a/b"),
        ("../b.pth", "/lists", "/lists/../b.pth"),
        ("/a/b/", "/lists", "/a/b"),
        ("b.pth", "s3://bucket/lists", "s3://bucket/lists/b.pth"),
        ("s3://other/b.pth", "s3://bucket/lists", "s3://other/b.pth"),
        ("/a/b", "s3://bucket/lists", "/a/b"),
    ],
)
def test_an_address_counts_from_its_folder(text: str, folder: str, expected: str) -> None:
    assert settled(text, folder) == settled(text, folder, or_name=True) == expected


def test_a_name_stays_a_name_where_no_file_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "milan").mkdir()
    assert settled("generated", or_name=True) == "generated"
    assert settled("random:0", or_name=True) == "random:0"
    assert settled("IMAGENET1K_V1", or_name=True) == "IMAGENET1K_V1"
    assert settled("milan", or_name=True) == str(tmp_path / "milan")
    assert settled("generated") == str(tmp_path / "generated")
    with pytest.raises(ConfigError, match="no other storage is supported"):
        settled("https://host/x.pth", or_name=True)


def test_every_job_makes_its_addresses_absolute_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "milan").mkdir()
    (tmp_path / "c").mkdir()
    (tmp_path / "i").mkdir()
    here = str(tmp_path)
    label = LabelJob(images="i", captioner="c", output="o", weights="w.pth", encoder_weights="e.safetensors")
    assert (label.images, label.captioner, label.output) == (f"{here}/i", f"{here}/c", f"{here}/o")
    assert (label.weights, label.encoder_weights) == (f"{here}/w.pth", f"{here}/e.safetensors")
    train = TrainJob(output="o", neurons="milan", descriptions="p.csv", encoder_weights="mnv2.safetensors")
    assert (train.output, train.source().name, train.source().descriptions) == (
        f"{here}/o",
        f"{here}/milan",
        f"{here}/p.csv",
    )
    assert train.encoder_config().weights == f"{here}/mnv2.safetensors", "which the captioner's config.json keeps"
    assert TrainJob(output="o").source().name == "generated"
    evaluate = EvaluateJob(output="o", labels="l", descriptions="p.csv", training_descriptions="t.csv")
    assert (evaluate.output, evaluate.labels) == (f"{here}/o", f"{here}/l")
    assert (evaluate.descriptions, evaluate.training_descriptions) == (f"{here}/p.csv", f"{here}/t.csv")
    assert EvaluateJob(output="o", captioner="folder/c").captioner == f"{here}/folder/c"


@pytest.mark.parametrize("command", mami.there())
def test_what_a_command_calls_a_folder_or_s3_is_an_address(command: str) -> None:
    """Wherever its workers run, and whatever folder a --config lies in."""
    config = mami.config_of(command)
    settled_here = {*getattr(config, "ADDRESSES", ()), *getattr(config, "ADDRESSES_OR_NAMES", ())}
    fields = {field.name for field in dataclasses.fields(config)}
    assert settled_here <= fields
    said = {name for name, text in field_docs(config).items() if "s3://" in text}
    assert said <= settled_here
    assert not settled_here or "__post_init__" in vars(config)


def test_several_addresses_are_settled_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclasses.dataclass
    class Several:
        runs: tuple[str, ...]
        ADDRESSES = ("runs",)

    monkeypatch.chdir(tmp_path)
    job = Several(("a", "s3://bucket/b/", "/c"))
    settle(job)
    assert job.runs == (f"{tmp_path}/a", "s3://bucket/b", "/c")
