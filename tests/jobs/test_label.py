"""The labelling job: bit for bit what the pipeline gives, whatever is killed; and what is wrong is said beforehand."""

import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path

import boto3
import duckdb
import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs import label
from jobs.engine import runtime
from jobs.engine.items import Item, Output
from jobs.engine.plan import read_manifest
from jobs.label import LabelJob
from jobs.labelling import stages
from jobs.labelling.layout import DROPPED, IMAGES, README
from jobs.labelling.run import WORKERS
from jobs.storage import Storage, storage_for
from mami_core import contracts, pipeline
from mami_core.images import LocalFiles, list_images
from mami_core.learning import checkpoint
from mami_core.subjects import load_subject
from tests import tiny
from tests.jobs.faultproxy import FaultProxy
from tests.jobs.s3_server import CREDENTIALS
from tests.jobs.tables import on_ray
from tests.jobs.tiny_label import (
    COUNT,
    SETTINGS,
    begin,
    in_order,
    labels_of,
    run_folder,
    tiny_job,
    unwanted,
    wait,
    work_here,
)

ALL_UNITS = sum(tiny.LAYERS.values())


@pytest.fixture(scope="module")
def expected(inputs: Path) -> pa.Table:
    """What the pipeline says in one go."""
    config = LabelJob(images="", captioner="", **SETTINGS).label_config()
    files = LocalFiles()
    found = pipeline.label(
        load_subject(tiny.SUBJECT),
        (),
        list_images(str(inputs / "photographs"), files),
        files,
        checkpoint.load(inputs / "captioner"),
        config,
    )
    return in_order(found.labels)


@pytest.fixture(scope="module")
def whole(inputs: Path) -> Storage:
    """A run that nothing happened to."""
    return work_here(tiny_job(inputs, inputs / "whole"))


@pytest.fixture
def finished(whole: Storage, job: LabelJob) -> LabelJob:
    """The job, whose run is there already."""
    shutil.copytree(whole.url, str(job.output))
    return job


# Agreement


@settings(max_examples=3)
@given(images=st.integers(1, COUNT + 5), neurons=st.integers(3, 20))
def test_labels_do_not_depend_on_the_size_of_items(
    images: int, neurons: int, inputs: Path, expected: pa.Table, tmp_path_factory: pytest.TempPathFactory
) -> None:
    job = tiny_job(inputs, tmp_path_factory.mktemp("run"))
    job = dataclasses.replace(job, images_per_item=images, neurons_per_item=neurons)
    storage = work_here(job)
    assert labels_of(storage).equals(expected)
    assert all(len(part) <= neurons for part in parts(storage))


def parts(storage: Storage) -> list[pd.DataFrame]:
    return [pd.read_parquet(storage.locate(info.path)) for info in storage.find("labels")]


@pytest.mark.slow  # what is killed below, and writes the same bytes all the same, are two workers
@on_ray
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("workers", "images", "neurons"), [(1, 100, 1000), (3, 5, 7)])
def test_any_number_of_workers_writes_the_same_bytes(
    workers: int, images: int, neurons: int, job: LabelJob, tmp_path: Path, expected: pa.Table
) -> None:
    job = dataclasses.replace(job, images_per_item=images, neurons_per_item=neurons, num_workers=workers)
    assert label.run(job) == 0
    storage = storage_for(str(job.output))
    assert labels_of(storage).equals(expected)
    alone = work_here(dataclasses.replace(job, output=str(tmp_path / "alone")))
    assert run_folder(storage) == run_folder(alone)


class Dying:
    """Whoever works the second item for the first time is killed: before it is written, or right after."""

    def process(self, item: Item, storage: Storage) -> Output:
        output = super().process(item, storage)  # type: ignore[misc]
        if item.index == 1 and storage.create(f"_killed/{item.stage}", b"once"):
            if item.stage == "features":
                assert isinstance(output.objects, bytes)
                storage.write(item.key, output.objects)
            os.kill(os.getpid(), signal.SIGKILL)
        return output


class DyingSearch(Dying, stages.SearchImages):
    pass


class DyingEncode(Dying, stages.EncodeImages):
    pass


class DyingCaption(Dying, stages.CaptionUnits):
    pass


@on_ray
@pytest.mark.timeout(300)
def test_killed_workers_and_failing_storage_change_nothing(
    job: LabelJob, inputs: Path, bucket: str, proxy: FaultProxy, expected: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = dataclasses.replace(on_s3(job, inputs, bucket), num_workers=2)
    alone = work_here(dataclasses.replace(job, output=f"{bucket}/alone"))
    for stage, worker in {"exemplars": DyingSearch, "features": DyingEncode, "captions": DyingCaption}.items():
        monkeypatch.setitem(WORKERS, stage, worker)
    proxy.order("GET", "503", "503")
    proxy.order("PUT", "lost", "503")
    assert label.run(job) == 0
    storage = storage_for(str(job.output))
    assert len(storage.find("_killed")) == 3
    assert json.loads(storage.read("run.json"))["config"]["num_workers"] == 2
    assert labels_of(storage).equals(expected)
    assert read_manifest(storage, verify=True).num_rows("labels/") == ALL_UNITS
    assert run_folder(storage) == run_folder(alone)


def on_s3(job: LabelJob, inputs: Path, bucket: str) -> LabelJob:
    """The same job with everything on object storage."""
    client = boto3.client("s3")
    for file in inputs.rglob("*.*"):
        client.upload_file(str(file), bucket.removeprefix("s3://"), str(file.relative_to(inputs)))
    places = {name: f"{bucket}/{name}" for name in ("images", "captioner", "output")} | {
        "images": f"{bucket}/photographs"
    }
    return dataclasses.replace(job, **places)  # type: ignore[arg-type]


def test_the_table_is_read_from_object_storage(job: LabelJob, inputs: Path, bucket: str, proxy: FaultProxy) -> None:
    work_here(dataclasses.replace(job, output=f"{bucket}/run"))
    place = f"{bucket}/run/labels"
    options = {
        "key": CREDENTIALS["AWS_ACCESS_KEY_ID"],
        "secret": CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        "endpoint_url": proxy.url,
    }
    for table in (pd.read_parquet(place), pd.read_parquet(place, storage_options=options)):
        check_readable(table)
    with duckdb.connect() as database:
        database.register_filesystem(fsspec.filesystem("s3", **options, skip_instance_cache=True))
        check_readable(database.sql(f"from read_parquet('{place}/**/*.parquet')").df())


def check_readable(table: pd.DataFrame) -> None:
    assert len(table) == ALL_UNITS
    assert set(contracts.LABELS.names) == set(table.columns)
    live = table[~table["dead"].astype(bool)]
    assert len(live) == ALL_UNITS - 1
    assert not live[["caption", "score", "log_p_caption", "log_p_language"]].isna().any(axis=None)
    assert live["caption"].nunique() > 3


def test_the_table_is_read_by_pandas_and_duckdb(whole: Storage) -> None:
    check_readable(pd.read_parquet(f"{whole.url}/labels"))
    check_readable(duckdb.execute(f"from '{whole.url}/labels/**/*.parquet'").df())
    one_layer = pd.read_parquet(f"{whole.url}/labels", filters=[("layer", "==", "clamped")])
    assert one_layer["unit"].tolist() == list(range(tiny.LAYERS["clamped"]))


# Going on


@pytest.mark.parametrize("lost", ["_MANIFEST.json", "labels/", "_work/features/", "exemplars/", "dropped/"])
def test_a_rerun_finishes_what_is_missing(lost: str, finished: LabelJob) -> None:
    storage = storage_for(str(finished.output))
    before, times = run_folder(storage), modified(finished)
    gone = [info.path for info in storage.find() if info.path.startswith(lost)][::2]
    assert gone
    for path in {*gone, "_MANIFEST.json"}:
        storage.delete(path)
    work_here(finished)
    assert run_folder(storage) == before
    touched = {path for path, when in modified(finished).items() if times[path] != when}
    # What is small is written each time; labels come with their regions.
    regions = {path.replace("labels/", "regions/", 1) for path in gone}
    assert {*gone, "_MANIFEST.json"} <= touched <= {*gone, "_MANIFEST.json", *ALWAYS, *regions}


ALWAYS = {IMAGES, DROPPED, README}


def modified(job: LabelJob) -> dict[str, int]:
    files = [file for file in Path(str(job.output)).rglob("*") if file.is_file()]
    return {str(file.relative_to(str(job.output))): file.stat().st_mtime_ns for file in files}


def test_a_finished_run_is_left_alone(
    finished: LabelJob, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    times = modified(finished)
    monkeypatch.setattr(runtime, "connect", unwanted)
    assert label.run(finished) == 0
    assert modified(finished) == times
    assert f'pandas.read_parquet("{finished.output}/labels")' in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_a_killed_driver_is_replaced_by_the_same_command(job: LabelJob, tmp_path: Path) -> None:
    """With a Ray of its own each time; killed in the first stage, stopped in a later one, and then left to finish."""
    alone = work_here(dataclasses.replace(job, output=str(tmp_path / "alone")))
    storage = storage_for(str(job.output))
    killed = begin(job)
    wait(lambda: bool(storage.find("_work/exemplars")), killed)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate(timeout=60)
    stopped = begin(job)
    wait(lambda: bool(storage.find("_work/features")), stopped)
    stopped.send_signal(signal.SIGTERM)
    _, said = stopped.communicate(timeout=60)
    assert "it goes on from here" in said or "neurons labelled" in said
    finished = begin(job)
    out, said = finished.communicate(timeout=300)
    assert finished.returncode == 0, said
    assert "39 neurons labelled, 1 dead" in out
    assert run_folder(storage) == run_folder(alone)
    out, said = begin(job).communicate(timeout=100)
    assert "is finished already; nothing was done" in said
    assert "39 neurons labelled, 1 dead" in out


# Odd input


def test_broken_images_are_dropped_and_the_job_goes_on(finished: LabelJob, capsys: pytest.CaptureFixture) -> None:
    storage = storage_for(str(finished.output))
    dropped = pd.read_parquet(f"{finished.output}/dropped").sort_values("image")
    assert dropped["name"].tolist() == ["004.png", "more/011.png"]
    assert dropped["reason"].str.contains("truncated").all()
    assert read_manifest(storage, verify=True).num_rows("dropped/") == 2
    assert label.run(finished) == 0
    out = capsys.readouterr().out
    assert "39 neurons labelled, 1 dead (active on no image), 2 rows dropped" in out
    assert "2 × image: cannot be decoded: image file is truncated" in out


def test_images_of_which_none_can_be_decoded_end_the_job(job: LabelJob, tmp_path: Path) -> None:
    tiny.write_photographs(tmp_path / "broken", 5, broken=tuple(range(5)))
    with pytest.raises(ValueError, match=r"None of the 5 images can be used .* the first is 000\.jpg: cannot be"):
        work_here(dataclasses.replace(job, images=str(tmp_path / "broken")))
    assert not Path(f"{job.output}/_MANIFEST.json").exists()


@pytest.mark.parametrize("count", [1, 3])
def test_fewer_images_than_exemplars_are_enough(count: int, job: LabelJob, tmp_path: Path) -> None:
    tiny.write_photographs(tmp_path / "few", count)
    work_here(dataclasses.replace(job, images=str(tmp_path / "few"), images_per_item=2))
    table = pd.read_parquet(f"{job.output}/labels")
    assert table["exemplar_images"].str.len().max() == count
    assert table["caption"].isna().equals(table["dead"])


def test_several_subjects_in_one_run_are_labelled_as_each_alone(
    job: LabelJob, expected: pa.Table, tmp_path: Path
) -> None:
    storage = work_here(dataclasses.replace(job, subject=(tiny.SUBJECT, tiny.OTHER_SUBJECT)))
    both = labels_of(storage)
    assert both.filter(pc.field("subject") == tiny.SUBJECT).equals(expected)
    other = work_here(dataclasses.replace(job, subject=(tiny.OTHER_SUBJECT,), output=str(tmp_path / "other")))
    assert both.filter(pc.field("subject") == tiny.OTHER_SUBJECT).equals(labels_of(other))
    assert pd.read_parquet(f"{job.output}/dropped")["subject"].value_counts().tolist() == [2, 2]
    turned = dataclasses.replace(job, subject=(tiny.OTHER_SUBJECT, tiny.SUBJECT), output=str(tmp_path / "turned"))
    assert run_folder(work_here(turned)) == run_folder(storage), "their order on the command line changes nothing"


def test_other_kinds_of_sources_give_the_same_labels(
    job: LabelJob, inputs: Path, tmp_path: Path, expected: pa.Table
) -> None:
    rows = sorted(list_images(job.images, LocalFiles()).to_pylist(), key=lambda row: row["image"])
    table = pa.table({"key": [row["key"] for row in rows], "image": [Path(row["path"]).read_bytes() for row in rows]})
    pa.parquet.write_table(table, tmp_path / "images.parquet", row_group_size=4)
    storage = work_here(dataclasses.replace(job, images=str(tmp_path / "images.parquet"), images_per_item=7))
    assert labels_of(storage).equals(expected)
