"""Processes that read images for a GPU: the same files as are read here, whatever becomes of the processes."""

import os
import select
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pytest
import torch
from torch import Tensor

from mami_core.errors import ImageError, StorageError
from mami_core.images import LocalFiles, list_images, read_ahead, read_bytes
from mami_core.images.jpeg_view import gpu_view
from mami_core.images.readers import Read, Readers
from tests.benchmarks.jpegs import write_jpegs

CROP = 0.875


@dataclass
class Failing(LocalFiles):
    """Storage that asks twice for everything, and gives up on one file."""

    lost: str = ""
    num_retries: int = 0

    def add_retries(self, count: int) -> None:
        self.num_retries += count

    def read(self, path: str, start: int = 0, size: int | None = None) -> bytes:
        if path == self.lost:
            raise StorageError(f"{path}: no answer")
        self.num_retries += 1
        return super().read(path, start, size)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    folder = tmp_path_factory.mktemp("photographs")
    write_jpegs(folder, 20, processes=1)
    (folder / "000003.jpg").write_bytes((folder / "000003.jpg").read_bytes()[:4000])
    (folder / "000007.png").write_bytes(b"")
    table = list_images(str(folder), LocalFiles())
    (folder / "000011.jpg").unlink()
    return table


@pytest.fixture(scope="module")
def one() -> Iterator[Readers]:
    found = Readers(1)
    wait_for(found)
    yield found
    found.close()


def wait_for(found: Readers) -> None:
    connections = [reader.connection for reader in found._starting]
    assert select.select(connections, [], [], 60)[0]


def plain(read: list[Read]) -> list[tuple]:
    return [
        (image, data.numpy().tobytes() if isinstance(data, Tensor) else str(data), seen) for image, data, seen in read
    ]


def expected(images: pa.Table) -> list[tuple]:
    return [
        (image, data, gpu_view(data, CROP)) if isinstance(data, bytes) else (image, str(data), None)
        for image, data in read_bytes(images, LocalFiles())
    ]


def test_a_reader_gives_the_files_that_are_read_here(images: pa.Table, one: Readers) -> None:
    found = one.read(images, LocalFiles(), CROP)
    assert found is not None
    assert plain(found) == expected(images)
    assert sum(isinstance(data, ImageError) for _, data, _ in found) == 1, "the file that is gone"
    assert [image for image, _, seen in found if seen is None] == [3, 8, 12]
    assert plain(one.read(images.slice(5, 3), LocalFiles(), CROP) or []) == expected(images)[5:8]


def test_what_storage_says_reaches_who_asked(images: pa.Table, one: Readers) -> None:
    files = Failing()
    assert one.read(images.slice(0, 3), files, CROP) is not None
    assert files.num_retries == 3
    with pytest.raises(StorageError, match="no answer"):
        one.read(images, Failing(lost=images["path"][2].as_py()), CROP)
    assert one.read(images.slice(0, 1), files, CROP) is not None, "it goes on"


def test_whoever_has_no_reader_reads_by_itself(
    images: pa.Table, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    several = Readers(1)
    monkeypatch.setattr(read_ahead, "readers", lambda count: several)
    monkeypatch.setattr(read_ahead, "_FEWEST_IMAGES", 1)
    monkeypatch.setattr(read_ahead, "MOST_TOGETHER", 6)

    def lists() -> list[list[Read]]:
        return list(read_ahead.read_ahead(images, LocalFiles(), CROP, limit=8, num_readers=1))

    starting = lists()
    assert [len(some) for some in starting] == [6, 6, 6, 3]
    wait_for(several)
    started = lists()
    os.kill(several._free[0].process.pid, signal.SIGKILL)
    ended = lists()
    assert "has ended" in caplog.text
    for found in (starting, started, ended):
        assert [each for some in found for each in plain(some)] == expected(images)
    several.close()


def test_files_that_no_other_process_knows_are_read_here(
    images: pa.Table, one: Readers, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Mine(LocalFiles):
        pass

    monkeypatch.setattr(read_ahead, "readers", lambda count: pytest.fail("they cannot be sent"))
    monkeypatch.setattr(read_ahead, "_FEWEST_IMAGES", 1)
    found = list(read_ahead.read_ahead(images, Mine(), CROP, limit=8, num_readers=1))
    assert [each for some in found for each in plain(some)] == expected(images)
    monkeypatch.setattr(sys.modules[__name__], "Elsewhere", Mine, raising=False)
    Mine.__qualname__ = "Elsewhere"  # can be sent, and is not to be found there
    assert one.read(images, Mine(), CROP) is None
    assert one.read(images, LocalFiles(), CROP) is not None, "it goes on"


def test_a_process_that_cannot_be_started_is_done_without(
    images: pa.Table, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert Readers(2).read(images, LocalFiles(), CROP) is None
    assert "by 0 processes for 2" in caplog.text


def test_pieces_hold_all_rows_and_few_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_ahead, "MOST_TOGETHER", 3)
    monkeypatch.setattr(read_ahead, "_BYTES_TOGETHER", 10)
    monkeypatch.setattr(read_ahead, "_UNKNOWN_BYTES", 6)
    table = pa.table({"size": pa.array([4, 4, 4, 1, 1, 1, None, None, 30, 2], pa.int64())})
    pieces = [piece["size"].to_pylist() for piece in read_ahead._pieces(table)]
    assert pieces == [[4, 4], [4, 1, 1], [1], [None], [None], [30], [2]]


def test_large_files_count_for_several_images() -> None:
    data = torch.zeros(1 << 20, dtype=torch.uint8)
    assert read_ahead.weight_of([(0, data[:9], None), (1, ImageError("gone"), None)]) == 2
    assert read_ahead.weight_of([(0, data, None)] * 4) == 32


def test_a_reader_ends_with_who_asks(images: pa.Table) -> None:
    several = Readers(2)
    wait_for(several)
    assert several.read(images, LocalFiles(), CROP) is not None
    processes = [reader.process for reader in [*several._starting, *several._free]]
    at_work = several._take()
    assert at_work is not None
    assert at_work.read(images, LocalFiles(), CROP) is not None
    several.close()
    several._give_back(at_work)
    assert [process.poll() is not None for process in processes] == [True, True]
    assert at_work.process.returncode == 0
    assert several.read(images, LocalFiles(), CROP) is None
