"""The images table → bytes: the right ones, in order, in few requests, and what happens when they cannot be had."""

import io
import tarfile
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mami_core.errors import ImageError, MissingObjectError, StorageError
from mami_core.images import FileInfo, list_images, read, read_bytes


class MemoryFiles:
    """An object store that counts its requests."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        self.objects = objects
        self.requests: list[tuple[str, int, int | None]] = []

    def find(self, path: str) -> list[FileInfo]:
        found = [name for name in self.objects if name == path or name.startswith(f"{path}/")]
        return [FileInfo(name, len(self.objects[name]), "1") for name in sorted(found)]

    def read(self, path: str, start: int = 0, size: int | None = None) -> bytes:
        self.requests.append((path, start, size))
        if path not in self.objects:
            raise MissingObjectError(f"{path}: no such object")
        return self.objects[path][start:][:size]

    def open(self, path: str) -> BinaryIO:
        return io.BytesIO(self.read(path))


def tar(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members.items():
            item = tarfile.TarInfo(name)
            item.size = len(content)
            archive.addfile(item, io.BytesIO(content))
    return buffer.getvalue()


def parquet(images: Sequence[bytes | None], group: int) -> bytes:
    buffer = io.BytesIO()
    table = pa.table({"image": pa.array(images, pa.binary())})
    pq.write_table(table, buffer, row_group_size=group, compression="none", use_dictionary=False, data_page_size=1)
    return buffer.getvalue()


def blobs(count: int, size: int = 100) -> list[bytes]:
    return [np.random.default_rng(seed).bytes(size + seed) for seed in range(count)]


def found(images: pa.Table, files: MemoryFiles) -> list[bytes | str]:
    answers = list(read_bytes(images, files))
    assert [image for image, _ in answers] == images["image"].to_pylist()
    return [data if isinstance(data, bytes) else str(data) for _, data in answers]


def three_kinds(data: list[bytes]) -> list[MemoryFiles]:
    """The same images as files, as members of two tars, and as rows of two Parquet files."""
    half = len(data) // 2
    names = [f"{number:03d}.png" for number in range(len(data))]
    named = dict(zip(names, data, strict=True))
    first, second = dict(list(named.items())[:half]), dict(list(named.items())[half:])
    return [
        MemoryFiles({f"s3://b/in/{name}": content for name, content in named.items()}),
        MemoryFiles({"s3://b/in/0.tar": tar(first), "s3://b/in/1.tar": tar(second)}),
        MemoryFiles({"s3://b/in/0.parquet": parquet(data[:half], 7), "s3://b/in/1.parquet": parquet(data[half:], 5)}),
    ]


@given(st.integers(2, 40), st.data())
def test_any_part_of_any_source_gives_its_bytes_in_order(count: int, draw: st.DataObject) -> None:
    data = blobs(count)
    chosen = draw.draw(st.lists(st.integers(0, count - 1), max_size=30))
    for files in three_kinds(data):
        images = list_images("s3://b/in", files)
        assert found(images.take(pa.array(chosen, pa.int64())), files) == [data[number] for number in chosen]
        assert found(images, files) == data


def test_neighbours_in_a_tar_share_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    data = blobs(60, 2000)
    files = MemoryFiles({"s3://b/0.tar": tar({f"{number:03d}.png": content for number, content in enumerate(data)})})
    images = list_images("s3://b/0.tar", files)

    files.requests.clear()
    assert found(images, files) == data
    assert len(files.requests) == 1
    assert (files.requests[0][2] or 0) < len(files.objects["s3://b/0.tar"])

    files.requests.clear()
    monkeypatch.setattr(read, "_REQUEST_BYTES", 30_000)
    assert found(images, files) == data
    assert 4 <= len(files.requests) <= 8
    assert all(size is not None and size <= 30_000 for _, _, size in files.requests)

    files.requests.clear()
    monkeypatch.setattr(read, "_GAP_BYTES", 5_000)
    few = images.take([0, 1, 2, 30, 31, 59])
    assert found(few, files) == [data[number] for number in (0, 1, 2, 30, 31, 59)]
    assert len(files.requests) == 3


def test_parquet_is_read_by_row_group() -> None:
    data = blobs(40, 50_000)
    files = MemoryFiles({"s3://b/0.parquet": parquet(data, 10)})
    images = list_images("s3://b/0.parquet", files)
    files.requests.clear()
    assert found(images, files) == data
    assert len(files.requests) == 1 + 4  # The footer, and each row group.
    files.requests.clear()
    assert found(images.take([3, 9, 35]), files) == [data[3], data[9], data[35]]
    assert len(files.requests) == 1 + 2


@pytest.mark.parametrize("kind", range(3))
def test_a_missing_object_costs_only_its_images(kind: int) -> None:
    data = blobs(12)
    files = three_kinds(data)[kind]
    images = list_images("s3://b/in", files)
    gone = images["path"][11].as_py()
    del files.objects[gone]
    lost = {number for number, path in enumerate(images["path"].to_pylist()) if path == gone}
    assert len(lost) == (1 if kind == 0 else 6)
    answers = found(images, files)
    assert {number for number, answer in enumerate(answers) if isinstance(answer, str)} == lost
    assert all(answer == data[number] for number, answer in enumerate(answers) if number not in lost)
    assert all(gone in answers[number] for number in lost)


@pytest.mark.parametrize("kind", range(3))
def test_failing_storage_ends_the_reading(kind: int) -> None:
    files = three_kinds(blobs(30))[kind]
    images = list_images("s3://b/in", files)
    broken = images["path"][29].as_py()
    working = files.read

    def fail(path: str, start: int = 0, size: int | None = None) -> bytes:
        if path == broken:
            raise StorageError(f"{path}: 503")
        return working(path, start, size)

    files.read = fail
    with pytest.raises(StorageError, match="503"):
        list(read_bytes(images, files))


@pytest.mark.parametrize("kind", [0, 1])
def test_a_file_that_shrank_is_said(kind: int) -> None:
    files = three_kinds(blobs(4, 700))[kind]
    images = list_images("s3://b/in", files)
    files.objects[images["path"][3].as_py()] = files.objects[images["path"][3].as_py()][: 1500 if kind else 500]
    assert [answer for answer in found(images, files)[:2] if isinstance(answer, str)] == []
    assert "703 bytes were listed" in str(found(images, files)[3])


def test_parquet_that_shrank_is_said() -> None:
    files = MemoryFiles({"s3://b/0.parquet": parquet(blobs(9), 3)})
    images = list_images("s3://b/0.parquet", files)
    files.objects["s3://b/0.parquet"] = parquet(blobs(4), 3)
    answers = found(images, files)
    assert answers[:4] == blobs(4)
    assert all("fewer rows" in str(answer) for answer in answers[4:])
    files.objects["s3://b/0.parquet"] = b"PAR1 not at all PAR1"
    assert all("expected a Parquet file" in str(answer) for answer in found(images, files))


def test_rows_without_bytes_are_said() -> None:
    files = MemoryFiles({"s3://b/0.parquet": parquet([b"x", None, b"z"], 3)})
    assert found(list_images("s3://b/0.parquet", files), files) == [b"x", "the row holds no bytes", b"z"]


def test_damaged_parquet_costs_the_same_images_however_the_work_is_split() -> None:
    data = blobs(300, 3000)
    whole = bytearray(parquet(data, 300))
    start = whole.index(data[200]) - 60
    whole[start : start + 60] = bytes(60)  # The page's header and the lengths before it.
    files = MemoryFiles({"s3://b/0.parquet": bytes(whole)})
    images = list_images("s3://b/0.parquet", files)
    together = found(images, files)
    apart = [answer for part in range(0, 300, 37) for answer in found(images.slice(part, 37), files)]
    assert together[:128] == data[:128]
    assert "is damaged" in str(together[200])
    assert [isinstance(answer, str) for answer in apart] == [isinstance(answer, str) for answer in together]


def test_huge_files_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "MAX_BYTES", 1000)
    monkeypatch.setattr(read, "_REQUEST_BYTES", 900)
    data = [b"x" * 10, b"x" * 1001, b"x" * 1000, b"x" * 5000, b"x"]
    for files in three_kinds(data)[:2]:
        images = list_images("s3://b/in", files)
        files.requests.clear()
        answers = found(images, files)
        assert [answers[number] for number in (0, 2, 4)] == [data[number] for number in (0, 2, 4)]
        assert ["more than the 1000 allowed" in str(answers[number]) for number in (1, 3)] == [True, True]
        assert len(files.requests) == 3
    lines = {"s3://b/x.txt": b"a.png\nb.png", "s3://b/a.png": data[3], "s3://b/b.png": data[2]}
    answers = found(list_images("s3://b/x.txt", MemoryFiles(lines)), MemoryFiles(lines))
    assert "allowed" in str(answers[0])
    assert answers[1] == data[2]


# A disk's files are read eight together; what waits is less than one request too much.
@pytest.mark.parametrize(("folder", "fewest", "most"), [("s3://b/in", 9, 9 + 11), ("/b/in", 16, 16 + 24)])
def test_reading_ahead_is_bounded(folder: str, fewest: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    files = MemoryFiles({f"{folder}/{number:04d}.png": bytes(1 << 20) for number in range(400)})
    images = list_images(folder, files)
    monkeypatch.setattr(read, "READ_AHEAD_BYTES", 20 << 20)
    answers = read_bytes(images, files)
    for _ in range(9):
        next(answers)
    assert fewest <= len(files.requests) <= most
    answers.close()
    assert len(files.requests) < 60


def test_errors_are_image_errors() -> None:
    files = MemoryFiles({"s3://b/in.txt": b"gone.png"})
    ((image, answer),) = read_bytes(list_images("s3://b/in.txt", files), files)
    assert image == 0
    assert isinstance(answer, ImageError)
