"""Judged runs: bit for bit what the pipeline says, whatever the pieces; and what is missing is made again."""

import dataclasses
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs import label
from jobs.engine.plan import open_plan
from jobs.label import LabelJob
from jobs.labelling import trust_stages
from jobs.labelling.run import WORKERS, work
from jobs.storage import Storage, storage_for
from mami_core import pipeline
from mami_core.errors import RunMismatchError
from mami_core.images import LocalFiles, list_images
from mami_core.learning import checkpoint
from mami_core.subjects import load_subject
from tests import tiny
from tests.jobs.tables import on_ray
from tests.jobs.test_label import Dying, DyingCaption
from tests.jobs.tiny_label import COUNT, in_order, labels_of, run_folder, tiny_job, work_here


@pytest.fixture(params=["none", "trust"], scope="module")
def judged(request: pytest.FixtureRequest, inputs: Path) -> LabelJob:
    """A tiny job whose captions are judged, by half of the images."""
    job = tiny_job(inputs, inputs / "nowhere")
    return dataclasses.replace(job, scorer=tiny.SCORER, held_out=0.7, rerank=request.param)


@pytest.fixture(scope="module")
def expected(judged: LabelJob) -> pa.Table:
    files = LocalFiles()
    found = pipeline.label(
        load_subject(tiny.SUBJECT),
        (),
        list_images(judged.images, files),
        files,
        checkpoint.load(Path(judged.captioner)),
        judged.label_config(),
        scorer=tiny.scorer(),
    )
    return in_order(found.labels)


@settings(max_examples=3)
@given(images=st.integers(1, COUNT + 5), neurons=st.integers(3, 20))
def test_trust_does_not_depend_on_the_size_of_items(
    images: int, neurons: int, judged: LabelJob, expected: pa.Table, tmp_path_factory: pytest.TempPathFactory
) -> None:
    output = str(tmp_path_factory.mktemp("run"))
    job = dataclasses.replace(judged, output=output, images_per_item=images, neurons_per_item=neurons)
    found = labels_of(work_here(job))
    assert found.equals(expected)
    if judged.rerank == "none":
        assert found["trust"].null_count < found.num_rows / 2


@pytest.fixture(scope="module")
def whole(judged: LabelJob, tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """A run that nothing happened to."""
    return work_here(dataclasses.replace(judged, output=str(tmp_path_factory.mktemp("whole") / "run")))


def copied(whole: Storage, folder: Path) -> Storage:
    return storage_for(str(shutil.copytree(whole.url, folder / "run")))


def test_what_is_missing_is_made_again_and_nothing_else(judged: LabelJob, whole: Storage, tmp_path: Path) -> None:
    storage = copied(whole, tmp_path)
    job = dataclasses.replace(judged, output=storage.url)
    before = run_folder(storage)
    lost = [path for path in before if path.startswith(("_work/held_out", "labels", "_work/watched"))][::3]
    states = [path.replace("watched", "exemplars") for path in lost if "watched" in path]
    for path in [*lost, *states, "_MANIFEST.json"]:
        storage.delete(path)
    reports = {}
    prepared = job.prepare()
    for report in work(storage, open_plan(storage, prepared.config), prepared, None):
        reports[report.stage] = report.num_done
    assert run_folder(storage) == before
    assert reports["captions"] == reports["features"] == reports["merge"] == 0
    assert sum(reports.values()) == len(lost)


def test_another_scorer_or_share_is_another_run(judged: LabelJob, whole: Storage) -> None:
    for changed in (dataclasses.replace(judged, held_out=0.3), dataclasses.replace(judged, scorer="none")):
        with pytest.raises(RunMismatchError, match=r"trust"):
            open_plan(whole, changed.prepare().config)


class DyingSee(Dying, trust_stages.SeeImages):
    """See `Dying`."""


class DyingJudge(Dying, trust_stages.JudgeUnits):
    """See `Dying`."""


LOOK_AND_JUDGE, RERANK = {"held_out": DyingSee, "trust": DyingJudge}, {"captions": DyingCaption}
FOLDERS = {"held_out": "_work/held_out", "captions": "_work/captions", "trust": "labels"}


@on_ray
@pytest.mark.parametrize("judged", ["trust"], indirect=True)
@pytest.mark.parametrize("dying", [LOOK_AND_JUDGE, pytest.param(RERANK, marks=pytest.mark.slow)])
def test_killed_judges_change_nothing(
    judged: LabelJob, whole: Storage, dying: dict[str, type], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that look and those that judge; those that rerank captions. The stages before are done already."""
    there = copied(whole, tmp_path)
    again = (*(FOLDERS[stage] for stage in dying), "_MANIFEST")
    for path in [path for path in run_folder(there) if path.startswith(again)]:
        there.delete(path)
    for stage, worker in dying.items():
        monkeypatch.setitem(WORKERS, stage, worker)
    assert label.run(dataclasses.replace(judged, output=there.url, num_workers=2)) == 0
    assert len(there.find("_killed")) == len(dying)
    assert run_folder(there) == run_folder(whole)
