"""Decoding in Ray tasks: the pixels of one process, whatever dies and however few CPUs are free."""

import dataclasses
import os
import signal
import time
import uuid
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pytest
import torch

from jobs.engine.plan import open_plan
from jobs.engine.pool import PoolConfig
from jobs.labelling import decoding
from jobs.labelling.decoding import DEADLY, OnCpus
from jobs.labelling.run import work
from jobs.storage import Storage, storage_for
from mami_core.errors import ConfigError, ImageError, StorageError, StorageRefusedError
from mami_core.images import Decoded, Decoder, FileInfo, Files, InThreads, LocalFiles, list_images
from tests import tiny
from tests.jobs.faultproxy import FaultProxy
from tests.jobs.tables import QUICK
from tests.jobs.tiny_label import run_folder, tiny_job, work_here, write_inputs

pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.cluster, pytest.mark.usefixtures("local_ray")]

COUNT, BROKEN = 40, (3, 17, 18)
ALONE = InThreads(1)


class Noted:
    """Files that note who reads what, and refuse or end the process that reads an image of some name."""

    def __init__(self, notes: Path, deadly: str = "", refused: str = "") -> None:
        self._files, self._notes, self._deadly, self._refused = LocalFiles(), notes, deadly, refused

    def find(self, path: str) -> list[FileInfo]:
        return self._files.find(path)

    def open(self, path: str) -> BinaryIO:
        return self._files.open(path)

    def read(self, path: str, start: int = 0, size: int | None = None) -> bytes:
        if self._deadly and self._deadly in path:
            os.kill(os.getpid(), signal.SIGKILL)
        if self._refused and self._refused in path:
            raise StorageRefusedError(f"{path}: made by the test")
        (self._notes / f"{uuid.uuid4()}-{os.getpid()}").touch()
        return self._files.read(path, start, size)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    folder = tiny.write_photographs(tmp_path_factory.mktemp("images") / "photographs", COUNT, broken=BROKEN)
    return list_images(str(folder), LocalFiles())


def decoded(decoder: Decoder, images: pa.Table, files: Files) -> list[Decoded]:
    return list(decoder(images, files, sizes=(32, 24), crop=0.875, batch_size=8))


def assert_same(found: list[Decoded], expected: list[Decoded]) -> None:
    assert [image for image, _ in found] == [image for image, _ in expected]
    for (_, mine), (_, theirs) in zip(found, expected, strict=True):
        if isinstance(theirs, ImageError):
            assert str(mine) == str(theirs)
        else:
            assert not isinstance(mine, ImageError)
            assert all(map(torch.equal, mine, theirs))


@pytest.mark.parametrize("num_cpus", [1.0, 0.0])
def test_tasks_decode_what_threads_decode(num_cpus: float, images: pa.Table, tmp_path: Path) -> None:
    expected = decoded(ALONE, images, LocalFiles())
    assert sum(isinstance(squares, ImageError) for _, squares in expected) == len(BROKEN)
    assert_same(decoded(OnCpus(2, num_cpus), images, Noted(tmp_path)), expected)
    readers = {note.name.rpartition("-")[2] for note in tmp_path.iterdir()}
    assert readers
    assert str(os.getpid()) not in readers
    assert_same(decoded(OnCpus(1, num_cpus), images.slice(5, 9), storage_for(".")), expected[5:14])


def test_no_image_is_nothing_to_decode(images: pa.Table) -> None:
    assert decoded(OnCpus(2), images.slice(0, 0), LocalFiles()) == []


def test_where_no_cpu_is_free_decoding_goes_on_without_a_claim(
    images: pa.Table, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(decoding, "_PATIENCE_S", 0.5)
    found = decoded(OnCpus(2, num_cpus=1000), images, LocalFiles())
    assert_same(found, decoded(ALONE, images, LocalFiles()))
    assert "No CPU became free" in caplog.text


def test_no_more_is_decoded_ahead_than_stated(images: pa.Table, tmp_path: Path) -> None:
    many = pa.concat_tables([images] * 16)
    stream = OnCpus(2)(many, Noted(tmp_path), sizes=(32,), crop=0.875, batch_size=8)
    first, _ = next(stream)
    assert first == 0
    before = -1
    while before != (begun := len(list(tmp_path.iterdir()))):
        before = begun
        time.sleep(1)
    stream.close()
    assert 0 < begun <= 4 * COUNT, "two pieces for each of two tasks, of sixteen pieces"


def test_an_image_that_ends_its_process_is_dropped_alone(
    images: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "_DEATHS", 0)  # every further one takes seconds
    expected = decoded(ALONE, images, LocalFiles())
    key = images["key"][6].as_py()
    expected[6] = (6, ImageError(DEADLY))
    assert_same(decoded(OnCpus(2, num_cpus=0.5), images.slice(0, 12), Noted(tmp_path, deadly=key)), expected[:12])


def test_storage_that_refuses_is_said_as_it_is(images: pa.Table, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="made by the test") as caught:
        decoded(OnCpus(2), images, Noted(tmp_path, refused=images["key"][9].as_py()))
    assert type(caught.value) is StorageRefusedError


def test_settings_that_cannot_work_are_refused() -> None:
    for num_tasks, num_cpus in ((0, 1.0), (1, -1.0)):
        with pytest.raises(ConfigError, match="at least 1 task"):
            OnCpus(num_tasks, num_cpus)
    with pytest.raises(ConfigError, match="helper_cpus: expected 0 or more"):
        PoolConfig(helper_cpus=-1)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_that_decodes_elsewhere_writes_the_same_bytes(tmp_path: Path) -> None:
    job = tiny_job(write_inputs(tmp_path), tmp_path / "elsewhere")
    alone = work_here(dataclasses.replace(job, output=str(tmp_path / "alone")))
    prepared, storage = job.prepare(), Storage(str(job.output))
    # As many workers as CPUs: the tasks must find room nevertheless.
    pool = PoolConfig(num_workers=4, helper_cpus=2)
    work(storage, open_plan(storage, prepared.config), prepared, pool)
    assert run_folder(storage) == run_folder(alone)


@pytest.mark.slow
def test_what_tasks_ask_of_storage_again_is_counted(bucket: str, proxy: FaultProxy) -> None:
    """And each image is asked for once: connections and all are the tasks' own."""
    storage = Storage(bucket, retry=QUICK)
    for number in range(20):
        storage.write(f"photographs/{number:03d}.png", tiny.photograph(number))
    images = list_images(f"{bucket}/photographs", storage)
    expected = decoded(ALONE, images, storage)
    proxy.reset()
    proxy.order("GET", "503", "503", "503")
    assert storage.num_retries == 0
    assert_same(decoded(OnCpus(2), images, storage), expected)
    assert storage.num_retries == 3
    assert proxy.requests["GET"] == 20 + 3
