"""Processes that read images for a GPU: the same files as are read here, whatever becomes of the processes."""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pytest
from torch import Tensor

from mami_core.errors import ImageError, StorageError
from mami_core.images import LocalFiles, list_images, read_bytes, readers
from mami_core.images.jpeg_view import gpu_view
from mami_core.images.readers import Read, Readers, read_ahead
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
    while not found._starting[0].is_up():
        time.sleep(0.05)


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
    monkeypatch.setattr(readers, "readers", lambda count: several)
    monkeypatch.setattr(readers, "_FEWEST_IMAGES", 1)
    monkeypatch.setattr(readers, "MOST_TOGETHER", 6)

    def lists() -> list[list[Read]]:
        return list(read_ahead(images, LocalFiles(), CROP, limit=8, num_readers=1))

    starting = lists()
    assert [len(some) for some in starting] == [6, 6, 6, 3]
    wait_for(several)
    started = lists()
    os.kill(several._free[0]._process.pid, signal.SIGKILL)
    ended = lists()
    assert "has ended" in caplog.text
    for found in (starting, started, ended):
        assert [each for some in found for each in plain(some)] == expected(images)
    several.close()


def test_pieces_hold_all_rows_and_few_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "MOST_TOGETHER", 3)
    monkeypatch.setattr(readers, "_BYTES_TOGETHER", 10)
    table = pa.table({"size": pa.array([4, 4, 4, 1, 1, None, None, 30, 2], pa.int64())})
    assert [piece["size"].to_pylist() for piece in readers._pieces(table)] == [
        [4, 4],
        [4, 1, 1],
        [None, None],
        [30],
        [2],
    ]


def test_a_reader_ends_with_who_asks(images: pa.Table) -> None:
    several = Readers(1)
    process = several._starting[0]._process
    several.close()
    assert process.returncode == 0
    assert several.read(images, LocalFiles(), CROP) is None
