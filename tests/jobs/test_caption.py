"""A folder of exemplars is captioned, wherever its pictures come from; interrupted, it goes on.

That the captions are MILAN's with its captioner, `test_import_milan` says.
"""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import transforms
from torchvision.datasets import ImageFolder

from jobs import export
from jobs.__main__ import main as mami
from jobs.caption import CaptionJob, prepare, work
from jobs.engine.plan import MANIFEST, open_plan
from jobs.storage import Storage, storage_for
from mami_core.errors import RunMismatchError
from mami_core.labels import labels_at
from tests import tiny
from tests.jobs.tables import snapshot

SIDE, K = 56, 3
LAYERS = {"conv1": [[0, 3, 5], [5, 1, 0]], "layer4.1": [[2, 4, 1]]}
"""Each unit's images, strongest first."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs in a class each, and exemplars of them as MILAN's scripts leave them."""
    folder = tmp_path_factory.mktemp("caption")
    for number in range(6):
        (folder / f"val/class {number}").mkdir(parents=True)
        (folder / f"val/class {number}/a.png").write_bytes(tiny.photograph(number))
    transform = transforms.Compose([transforms.Resize((SIDE, SIDE)), transforms.ToTensor()])
    pictures = torch.stack([image for image, _ in ImageFolder(str(folder / "val"), transform=transform)])
    random = torch.Generator().manual_seed(1)
    for layer, ids in LAYERS.items():
        (folder / "net" / layer).mkdir(parents=True)
        masks = torch.rand(len(ids), K, 1, 7, 7, generator=random).repeat_interleave(8, 3).repeat_interleave(8, 4) > 0.8
        masks[0, 1] = False
        torch_saved = {"images": (pictures[torch.tensor(ids)] * 255).byte(), "masks": masks.byte()}
        for name, tensor in torch_saved.items():
            np.save(folder / "net" / layer / f"{name}.npy", tensor)
        activations = np.arange(len(ids) * K)[::-1].reshape(len(ids), K)
        for name, table, form in (("ids", np.array(ids), "%i"), ("activations", activations, "%.5e")):
            np.savetxt(folder / "net" / layer / f"{name}.csv", table, delimiter=",", fmt=form)
    np.save(folder / "net/conv1/units.npy", np.array([7, 30]))
    return folder


def work_here(job: CaptionJob) -> Storage:
    """The job without Ray."""
    prepared, storage = prepare(job), storage_for(job.output)
    work(storage, open_plan(storage, prepared.config), job, prepared, None)
    return storage


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A captioner that sees by a tiny network."""
    return str(tiny.write_captioner(tmp_path_factory.mktemp("small") / "captioner"))


def said(storage: Storage) -> list[tuple]:
    rows = labels_at(storage.url).to_pylist()
    return [(row["layer"], row["unit"], row["caption"], row["score"], row["exemplar_activations"]) for row in rows]


def test_every_neuron_has_a_row_and_the_csv_of_milan_holds_them(place: Path, small: str, tmp_path: Path) -> None:
    job = CaptionJob(exemplars=str(place / "net"), captioner=small, output=str(tmp_path / "labels"), beam_size=3)
    rows = labels_at(work_here(job).url).to_pylist()
    assert [(row["subject"], row["layer"], row["unit"]) for row in rows] == [
        ("net", "conv1", 7),
        ("net", "conv1", 30),
        ("net", "layer4.1", 0),
    ]
    assert rows[0]["exemplar_images"] == ["conv1/7/0", "conv1/7/1", "conv1/7/2"]
    assert rows[1]["exemplar_images"] == ["conv1/7/2", "conv1/30/1", "conv1/7/0"], "shown before: known by its first"
    assert rows[1]["exemplar_activations"] == [2.0, 1.0, 0.0]
    assert np.isnan([rows[0]["threshold"], rows[0]["active_fraction"]]).all()
    where = tmp_path / "descriptions.csv"
    export.run(export.ExportJob(run=job.output, format="milan-descriptions", output=str(where)))
    lines = where.read_text().splitlines()
    assert lines[0] == "layer,unit,description"
    assert [line.lower() for line in lines[1:]] == [f"{row['layer']},{row['unit']},{row['caption']}" for row in rows]


def test_pictures_may_come_from_the_images_that_were_searched(place: Path, small: str, tmp_path: Path) -> None:
    whole = CaptionJob(exemplars=str(place / "net"), captioner=small, output=str(tmp_path / "whole"), beam_size=3)
    published = shutil.copytree(place / "net", tmp_path / "net", ignore=shutil.ignore_patterns("images.npy"))
    job = dataclasses.replace(
        whole, exemplars=str(published), images=str(place / "val"), output=str(tmp_path / "published")
    )
    found = work_here(job)
    assert said(found) == said(work_here(whole))
    names = labels_at(found.url)["exemplar_images"][0].as_py()
    assert names == ["class 0/a.png", "class 3/a.png", "class 5/a.png"]


def test_interrupted_it_goes_on_where_it_was(place: Path, small: str, tmp_path: Path) -> None:
    job = CaptionJob(exemplars=str(place / "net"), captioner=small, output=str(tmp_path / "labels"), beam_size=3)
    storage = work_here(job)
    whole = snapshot(storage)
    gone = [info.path for info in storage.find("labels")][:1]
    for path in (*gone, MANIFEST):
        storage.delete(path)
    work_here(job)
    assert snapshot(storage) == whole
    with pytest.raises(RunMismatchError, match="beam_size: 3 there, 5 now"):
        work_here(dataclasses.replace(job, beam_size=5))


def test_other_masks_are_other_exemplars(place: Path, small: str, tmp_path: Path) -> None:
    there = shutil.copytree(place / "net", tmp_path / "net")
    job = CaptionJob(exemplars=str(there), captioner=small, output=str(tmp_path / "labels"))
    before = prepare(job).config
    assert prepare(job).config == before
    np.save(there / "conv1/masks.npy", 1 - np.load(there / "conv1/masks.npy"))
    assert prepare(job).config != before


def test_other_pictures_under_the_same_numbers_are_other_exemplars(place: Path, small: str, tmp_path: Path) -> None:
    there = shutil.copytree(place / "net", tmp_path / "net", ignore=shutil.ignore_patterns("images.npy"))
    images = shutil.copytree(place / "val", tmp_path / "val")
    job = CaptionJob(exemplars=str(there), images=str(images), captioner=small, output=str(tmp_path / "labels"))
    before = prepare(job).config
    assert prepare(job).config == before
    (images / "class 2").rename(images / "class 2 again")
    assert prepare(job).config != before


def test_other_photographs_beside_the_layers_are_other_exemplars(place: Path, small: str, tmp_path: Path) -> None:
    there = shutil.copytree(place / "net", tmp_path / "net")
    (there / "photographs").mkdir()
    photographs = np.full((6, 3, SIDE, SIDE), 9, np.uint8)
    np.save(there / "photographs/0.npy", photographs)
    for layer, ids in LAYERS.items():
        np.save(there / layer / "images.npy", np.array(ids))
    job = CaptionJob(exemplars=str(there), captioner=small, output=str(tmp_path / "labels"))
    before = prepare(job).config
    np.save(there / "photographs/0.npy", photographs + 1)
    assert prepare(job).config != before


def test_other_activations_are_other_exemplars(place: Path, small: str, tmp_path: Path) -> None:
    there = shutil.copytree(place / "net", tmp_path / "net")
    job = CaptionJob(exemplars=str(there), captioner=small, output=str(tmp_path / "labels"))
    before = prepare(job).config
    np.savetxt(there / "conv1/activations.csv", np.full((2, K), 7.0), delimiter=",")
    assert prepare(job).config != before


def test_every_unit_may_have_fewer_exemplars_than_there_is_room_for(place: Path, small: str, tmp_path: Path) -> None:
    there = shutil.copytree(place / "net", tmp_path / "net")
    for layer in LAYERS:
        for name in ("images", "masks"):
            array = np.load(there / layer / f"{name}.npy")
            array[:, K - 1] = 0
            np.save(there / layer / f"{name}.npy", array)
    job = CaptionJob(exemplars=str(there), captioner=small, output=str(tmp_path / "labels"), beam_size=3)
    rows = labels_at(work_here(job).url).to_pylist()
    assert [len(row["exemplar_images"]) for row in rows] == [K - 1] * 3
    assert all(row["caption"] is not None for row in rows)


def test_a_plan_says_what_and_starts_nothing(
    place: Path, small: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = [str(place / "net"), "--captioner", small, "--output", str(tmp_path / "labels")]
    assert mami(["caption", *words, "--dry-run"]) == 0
    assert "3 neurons, whose exemplars show 6 images" in capsys.readouterr().out
    assert not (tmp_path / "labels").exists()


def test_commands_that_need_a_labelling_run_say_that_this_is_none(
    place: Path, small: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    job = CaptionJob(exemplars=str(place / "net"), captioner=small, output=str(tmp_path / "labels"), beam_size=3)
    run = work_here(job).url
    for words in (
        ["show", run, "conv1", "7"],
        ["evaluate", "--labels", run, "--halves", "2", "--captioner", small, "--output", str(tmp_path / "scores")],
        ["export", run, "--milan", "--dry-run"],
    ):
        assert mami(words) == 2
        assert "no labelling run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("exemplars", "message"),
    [("nowhere", "folders of layers with masks.npy"), ("published", "has no images.npy"), ("net", "no config.json")],
)
def test_what_cannot_be_captioned_ends_in_one_sentence(
    exemplars: str, message: str, place: Path, small: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    shutil.copytree(place / "net", tmp_path / "published", ignore=shutil.ignore_patterns("images.npy"))
    where = place / "net" if exemplars == "net" else tmp_path / exemplars
    captioner = str(tmp_path) if exemplars == "net" else small
    words = ["caption", str(where), "--captioner", captioner, "--output", str(tmp_path / "labels")]
    assert mami(words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "labels").exists()
