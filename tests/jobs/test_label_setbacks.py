"""What happens to a labelling job in the middle of its work, what it says then, and that it goes on from there."""

import dataclasses
import errno
import os
import resource
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import numpy as np
import pytest

from jobs import label
from jobs.engine import runtime
from jobs.engine.items import ERRORS, Item, Output
from jobs.engine.plan import MANIFEST, open_plan
from jobs.label import LabelJob
from jobs.labelling import stages
from jobs.labelling.run import WORKERS, work
from jobs.storage import Storage, storage_for
from tests.jobs.faultproxy import FaultProxy
from tests.jobs.tables import on_ray
from tests.jobs.tiny_label import arguments, begin, main_here, run_folder, tiny_job, wait, work_here


@pytest.fixture
def remote(job: LabelJob, bucket: str) -> LabelJob:
    """The same with its output in a bucket."""
    return dataclasses.replace(job, output=f"{bucket}/run")


@pytest.fixture(scope="module")
def undisturbed(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The files of a run to which nothing happens, wherever it lies."""
    return run_folder(work_here(tiny_job(inputs, tmp_path_factory.mktemp("undisturbed"))))


def goes_on(job: LabelJob, undisturbed: dict[str, str]) -> None:
    """The same command finishes what was kept."""
    storage = storage_for(str(job.output))
    kept = {info.path: info.version for info in storage.find("_work/exemplars")}
    assert kept
    assert not storage.exists(MANIFEST)
    assert main_here(job) == 0
    now = {info.path: info.version for info in storage.find("_work/exemplars")}
    assert {path: now[path] for path in kept} == kept, "what was kept is not made again"
    assert run_folder(storage) == undisturbed


# A disk that says no


@pytest.mark.parametrize(
    ("number", "says"), [(errno.ENOSPC, "the disk is full; free some space"), (errno.EACCES, "permission denied")]
)
def test_a_disk_that_says_no_in_the_middle_is_named_and_the_rerun_goes_on(
    number: int,
    says: str,
    job: LabelJob,
    undisturbed: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    """The kernel's answer is made up, at the place where it gives it; everything above is real."""
    flush, left = os.fsync, [10]  # of five files, and of their folders

    def full(descriptor: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(number, os.strerror(number))
        flush(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert main_here(job) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "could not go on" in said
    assert says in said
    assert str(job.output) in said
    goes_on(job, undisturbed)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a small disk")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_fills_up_is_named_and_the_rerun_goes_on(
    job: LabelJob, undisturbed: dict[str, str], small_disk: Path, capsys: pytest.CaptureFixture
) -> None:
    job = dataclasses.replace(job, output=str(small_disk / "run"))
    assert main_here(job) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "the disk is full; free some space and run the same command again" in said
    assert str(small_disk) in said
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    goes_on(job, undisturbed)


# A store that says no


@pytest.mark.parametrize(
    ("fault", "says"), [("expired", "the credentials have expired; renew them"), ("denied", "check the credentials")]
)
def test_credentials_that_end_in_the_middle_are_named_and_the_rerun_goes_on(
    fault: str,
    says: str,
    remote: LabelJob,
    undisturbed: dict[str, str],
    proxy: FaultProxy,
    capsys: pytest.CaptureFixture,
) -> None:
    proxy.watch = after_writes(6, lambda: proxy.rates.update({fault: 1.0}))
    assert main_here(remote) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "could not go on" in said
    assert says in said
    assert str(remote.output) in said
    assert proxy.faults[fault] < 20, "who is refused does not insist"
    proxy.reset()
    goes_on(remote, undisturbed)


def after_writes(count: int, happens: Callable[[], None]) -> Callable[[str, str, str, int], None]:
    """Lets something happen once the store has so many objects."""
    written = []

    def watch(when: str, method: str, path: str, port: int) -> None:
        if (when, method) == ("after", "PUT"):
            written.append(path)
            if len(written) == count:
                happens()

    return watch


@pytest.mark.slow
@on_ray
@pytest.mark.timeout(300)
def test_credentials_that_end_end_a_job_on_ray_too(
    remote: LabelJob, undisturbed: dict[str, str], proxy: FaultProxy, capsys: pytest.CaptureFixture
) -> None:
    proxy.watch = after_writes(6, lambda: proxy.rates.update({"expired": 1.0}))
    assert runtime.main(LabelJob, label.run, arguments(remote)) == 1
    assert "the credentials have expired; renew them" in capsys.readouterr().err.splitlines()[-1]
    proxy.reset()
    assert runtime.main(LabelJob, label.run, arguments(remote)) == 0
    assert run_folder(storage_for(str(remote.output))) == undisturbed


# No memory


class Hungry(stages.EncodeImages):
    """Has no room for the second item."""

    def process(self, item: Item, storage: Storage) -> Output:
        if item.index == 1:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), resource.RLIM_INFINITY))
            np.ones(1 << 27)  # a GB
        return super().process(item, storage)


@pytest.mark.slow
@on_ray
@pytest.mark.timeout(300)
def test_a_worker_without_memory_costs_its_item_and_the_rerun_goes_on(
    job: LabelJob, undisturbed: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(WORKERS, "features", Hungry)
        assert runtime.main(LabelJob, label.run, arguments(job)) == 1
    said = capsys.readouterr().err
    assert "1 work items failed" in said
    assert "features part-00001-of-00003: " in said
    assert "MemoryError" in said.splitlines()[-2]
    storage = storage_for(str(job.output))
    assert [info.path for info in storage.find(ERRORS)] == ["_errors/features/part-00001-of-00003.json"]
    assert len(storage.find("_work/features")) == 2, "the others went on"
    goes_on(job, undisturbed)
    assert storage.find(ERRORS) == []


# Requests


def test_requests_are_those_of_the_design(job: LabelJob, inputs: Path, bucket: str, proxy: FaultProxy) -> None:
    """One PUT an object; in docs/scale.md, "By stage", stand the GETs."""
    client, name = boto3.client("s3"), bucket.removeprefix("s3://")
    for file in (inputs / "photographs").rglob("*.*"):
        client.upload_file(str(file), name, str(file.relative_to(inputs)))
    job = dataclasses.replace(job, images=f"{bucket}/photographs", output=f"{bucket}/run")
    layout = job.prepare().spec.layout
    proxy.reset()
    storage = work_here(job)
    puts, gets = ({path: n for (verb, path), n in proxy.served.items() if verb == wanted} for wanted in ("PUT", "GET"))
    assert set(puts) == {f"/{name}/run/{info.path}" for info in storage.find()}
    assert set(puts.values()) == {1}
    (subject,) = layout.subjects
    num_shards = len(layout.shards(subject))

    def read(*folders: str) -> set[int]:
        places = tuple(f"/{name}/{folder}/" for folder in folders)
        return {count for path, count in gets.items() if path.startswith(places)}

    assert gets[f"/{name}"] == 1 + 2 * len(layout.stages()) + 1, "listings: images, each stage, what was dropped"
    assert read("photographs") == {1, 2}, "to search, and once more if it is an exemplar"
    assert read("run/_work/exemplars") == {num_shards + 1}, "a range a shard, and once where it begins"
    assert read("run/_work/features") == {2 * num_shards}, "a shard's rows, and where they are"
    assert read("run/exemplars") == {3}, "for features, for captions, for the manifest"
    assert read("run/labels", "run/dropped", "run/_work/dropped") == {1}
    assert proxy.requests.total() < 300


# Two at once


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(600)
@pytest.mark.parametrize("later", [False, True])
def test_two_drivers_of_one_run_do_no_harm(later: bool, job: LabelJob, undisturbed: dict[str, str]) -> None:
    """Begun at the same time; and the second while the first is at work, as by a retry that overlaps."""
    storage = storage_for(str(job.output))
    both = [begin(job)]
    if later:
        wait(lambda: bool(storage.find("_work/exemplars")), both[0])
    both.append(begin(job))
    ended = [each.communicate(timeout=400) for each in both]
    assert [each.returncode for each in both] == [0, 0], ended
    assert all("39 neurons labelled, 1 dead" in out for out, _ in ended)
    assert run_folder(storage) == undisturbed


# A run of another time


def test_a_half_finished_run_of_older_tables_is_refused(job: LabelJob, capsys: pytest.CaptureFixture) -> None:
    prepared, storage = job.prepare(), storage_for(str(job.output))
    tables = prepared.config["tables"]
    name = next(name for name in tables if "labels" in name)
    older = prepared.config | {"tables": tables | {name: tables[name] - 1}}
    work(storage, open_plan(storage, older), prepared, None)
    storage.delete(MANIFEST)
    before = run_folder(storage)
    assert main_here(job) == 2
    assert f"tables.{name}: {tables[name] - 1} there, {tables[name]} now" in capsys.readouterr().err
    assert run_folder(storage) == before


def test_a_run_that_the_first_version_began_is_refused_and_left_as_it_is(
    job: LabelJob, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Its folder was made by commit 1b0f213, up to the exemplars. Its tables are of other versions than today's."""
    with tarfile.open(Path(__file__).parent / "data" / "run_begun_by_1b0f213.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    storage = storage_for(str(job.output))
    before = run_folder(storage)
    assert "_PLAN.json" in before
    assert main_here(job) == runtime.BAD_INPUT
    said = capsys.readouterr().err
    assert "tables" in said
    assert "labels" in said
    assert run_folder(storage) == before
