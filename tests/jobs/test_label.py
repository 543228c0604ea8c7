"""The labelling job: bit for bit what the pipeline gives, whatever is killed; and what is wrong is said beforehand."""

import dataclasses
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
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
from safetensors.torch import save_file

from jobs import label, runtime, stages
from jobs.items import Item, Output
from jobs.label import LabelJob
from jobs.layout import Layout
from jobs.plan import open_plan, read_manifest
from jobs.storage import Storage, storage_for
from mami_core import contracts, pipeline
from mami_core.errors import ConfigError, IncompleteRunError, SubjectError
from mami_core.features import EncoderConfig
from mami_core.images import LocalFiles, list_images
from mami_core.learning import checkpoint
from mami_core.subjects import load_subject
from tests import tiny
from tests.jobs.conftest import CREDENTIALS
from tests.jobs.faultproxy import FaultProxy
from tests.jobs.test_work import on_ray, snapshot

COUNT, BROKEN = 23, (4, 11)
ALL_UNITS = sum(tiny.LAYERS.values())


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:]
    yield
    root.handlers[:] = before


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photographs and a captioner."""
    folder = tmp_path_factory.mktemp("inputs")
    tiny.write_photographs(folder / "photographs", COUNT, broken=BROKEN)
    tiny.write_captioner(folder / "captioner")
    return folder


@pytest.fixture
def job(inputs: Path, tmp_path: Path) -> LabelJob:
    return LabelJob(
        subject=(tiny.SUBJECT,),
        images=str(inputs / "photographs"),
        captioner=str(inputs / "captioner"),
        output=str(tmp_path / "run"),
        k=4,
        batch_size=8,
        beam_size=4,
        max_length=6,
        num_captions=3,
        images_per_item=8,
        neurons_per_item=6,
    )


@pytest.fixture(scope="module")
def expected(inputs: Path) -> pa.Table:
    """What the pipeline says in one go."""
    config = LabelJob(images="", captioner="", k=4, batch_size=8, beam_size=4, max_length=6, num_captions=3)
    files = LocalFiles()
    found = pipeline.label(
        load_subject(tiny.SUBJECT),
        (),
        list_images(str(inputs / "photographs"), files),
        files,
        checkpoint.load(inputs / "captioner"),
        config.label_config(),
    )
    return in_order(found.labels)


def in_order(labels: pa.Table) -> pa.Table:
    """By layer and unit, without the run, which no pipeline knows."""
    return labels.sort_by([("layer", "ascending"), ("unit", "ascending")]).drop_columns("run").combine_chunks()


def work_here(job: LabelJob) -> Storage:
    """The job without Ray."""
    prepared, storage = label.prepare(job), storage_for(str(job.output))
    label.work(storage, open_plan(storage, prepared.config), prepared, None)
    return storage


def labels_of(storage: Storage) -> pa.Table:
    parts = [info.path for info in storage.find("labels")]
    return in_order(
        pa.concat_tables(contracts.from_parquet(storage.read(part), contracts.LABELS, where=part) for part in parts)
    )


def run_folder(storage: Storage) -> dict[str, str]:
    """Every file's checksum, but for what says when and how a run was made."""
    return {path: sha for path, sha in snapshot(storage).items() if path != "run.json" and "killed" not in path}


# Agreement


@settings(max_examples=5)
@given(images=st.integers(1, COUNT + 5), neurons=st.integers(3, 20))
def test_labels_do_not_depend_on_the_size_of_items(
    images: int, neurons: int, inputs: Path, expected: pa.Table, tmp_path_factory: pytest.TempPathFactory
) -> None:
    job = LabelJob(
        subject=(tiny.SUBJECT,),
        images=str(inputs / "photographs"),
        captioner=str(inputs / "captioner"),
        output=str(tmp_path_factory.mktemp("run")),
        k=4,
        batch_size=8,
        beam_size=4,
        max_length=6,
        num_captions=3,
        images_per_item=images,
        neurons_per_item=neurons,
    )
    storage = work_here(job)
    assert labels_of(storage).equals(expected)
    assert all(len(part) <= neurons for part in parts(storage))


def parts(storage: Storage) -> list[pd.DataFrame]:
    return [pd.read_parquet(storage.locate(info.path)) for info in storage.find("labels")]


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
    assert json.loads(storage.read("run.json"))["config"]["num_workers"] == workers


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
        monkeypatch.setitem(label.WORKERS, stage, worker)
    proxy.order("GET", "503", "503")
    proxy.order("PUT", "lost", "503")
    assert label.run(job) == 0
    storage = storage_for(str(job.output))
    assert len(storage.find("_killed")) == 3
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


def test_the_table_is_read_by_pandas_and_duckdb(job: LabelJob) -> None:
    work_here(job)
    check_readable(pd.read_parquet(f"{job.output}/labels"))
    check_readable(duckdb.execute(f"from '{job.output}/labels/**/*.parquet'").df())
    one_layer = pd.read_parquet(f"{job.output}/labels", filters=[("layer", "==", "clamped")])
    assert one_layer["unit"].tolist() == list(range(tiny.LAYERS["clamped"]))


# Going on


@pytest.mark.parametrize("lost", ["_MANIFEST.json", "labels/", "_work/features/", "exemplars/", "dropped/"])
def test_a_rerun_finishes_what_is_missing(lost: str, job: LabelJob) -> None:
    storage = work_here(job)
    before, times = run_folder(storage), modified(job)
    gone = [info.path for info in storage.find() if info.path.startswith(lost)][::2]
    assert gone
    for path in {*gone, "_MANIFEST.json"}:
        storage.delete(path)
    work_here(job)
    assert run_folder(storage) == before
    touched = {path for path, when in modified(job).items() if times[path] != when}
    # The images table and the dropped rows are small, and written each time.
    assert {*gone, "_MANIFEST.json"} <= touched <= {*gone, "_MANIFEST.json", *ALWAYS}


ALWAYS = {"_work/images.parquet", "dropped/part-00000-of-00001.parquet"}


def modified(job: LabelJob) -> dict[str, int]:
    files = [file for file in Path(str(job.output)).rglob("*") if file.is_file()]
    return {str(file.relative_to(str(job.output))): file.stat().st_mtime_ns for file in files}


def test_a_finished_run_is_left_alone(
    job: LabelJob, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    work_here(job)
    times = modified(job)
    monkeypatch.setattr(runtime, "connect", unwanted)
    assert label.run(job) == 0
    assert modified(job) == times
    assert f'pandas.read_parquet("{job.output}/labels")' in capsys.readouterr().out


def unwanted(*_: object, **__: object) -> None:
    raise AssertionError("the work must not begin")


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


def begin(job: LabelJob) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "RAY_ADDRESS": ""}
    command = [sys.executable, "-m", "jobs.label", *arguments(job)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=environment, text=True, start_new_session=True, **pipes)  # type: ignore[call-overload]


def wait(reached: Callable[[], bool], process: subprocess.Popen) -> None:
    while not reached() and process.poll() is None:
        time.sleep(0.05)


def arguments(job: LabelJob, **changes: str | None) -> list[str]:
    """The command line of a job; None leaves a setting out."""
    given_ = {name: value for name, value in dataclasses.asdict(job).items() if value != default(name)}
    words = []
    for name, value in (given_ | changes).items():
        option = f"--{name.replace('_', '-')}"
        if name == "subject" and isinstance(value, tuple):
            words += [word for each in value for word in (option, each)]
        elif value is not None:
            words += [option, *(value if isinstance(value, tuple) else [str(value)])]
    return words


def default(name: str) -> object:
    return next(field.default for field in dataclasses.fields(LabelJob) if field.name == name)


# Bad input


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
    assert "none of its 1 files is an image" in said


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
        label.prepare(job)
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
    with pytest.raises(IncompleteRunError, match="must be the same on every machine and each time"):
        work_here(dataclasses.replace(job, subject=("python:tests.tiny:restless",)))


# Odd input


def test_broken_images_are_dropped_and_the_job_goes_on(job: LabelJob, capsys: pytest.CaptureFixture) -> None:
    storage = work_here(job)
    dropped = pd.read_parquet(f"{job.output}/dropped").sort_values("image")
    assert dropped["name"].tolist() == ["004.png", "more/011.png"]
    assert dropped["reason"].str.contains("truncated").all()
    assert read_manifest(storage, verify=True).num_rows("dropped/") == 2
    assert label.run(job) == 0
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


# What lies where

names = st.text(min_size=1, max_size=12)


@given(
    subjects=st.dictionaries(names, st.dictionaries(names, st.integers(1, 30), min_size=1, max_size=3), max_size=3),
    images=st.integers(1, 50),
    of_images=st.integers(1, 20),
    of_neurons=st.integers(1, 20),
)
def test_items_cover_everything_once_under_names_of_their_own(
    subjects: dict[str, dict[str, int]], images: int, of_images: int, of_neurons: int
) -> None:
    config = {
        "subjects": {name: {"layers": layers} for name, layers in subjects.items()},
        "images": {"count": images},
        "images_per_item": of_images,
        "neurons_per_item": of_neurons,
    }
    layout = Layout.of(config)
    assert [image for first, end in layout.chunks() for image in range(first, end)] == list(range(images))
    for name, layers in subjects.items():
        units = [(shard.layer, unit) for shard in layout.shards(name) for unit in range(shard.first, shard.end)]
        assert sorted(units) == sorted((layer, unit) for layer, count in layers.items() for unit in range(count))
    keys = [item.key for items in layout.stages().values() for item in items]
    assert len(set(keys)) == len(keys)
    for key in {*keys, *layout.finished_keys()}:
        Storage("/somewhere").locate(key)  # would raise where a name led out of the folder
    turned = config | {"subjects": dict(reversed(list(config["subjects"].items())))}  # type: ignore[arg-type]
    assert Layout.of(json.loads(json.dumps(turned))).stages() == layout.stages()


def test_an_unsafe_number_of_subjects_is_refused() -> None:
    with pytest.raises(ConfigError, match="got none"):
        LabelJob(images="x", captioner="y").subject_specs()
