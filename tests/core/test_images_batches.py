"""The images table → batches: deterministic, bounded, and nothing left running."""

import io
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mami_core.errors import ConfigError, MissingObjectError, StorageError
from mami_core.images import FileInfo, ImageBatch, InThreads, LocalFiles, batches, decode, list_images
from mami_core.images.ahead import ahead, threads


class Photographs:
    """Small pictures, made when they are read; the named ones are broken."""

    def __init__(self, count: int, broken: frozenset[int] = frozenset()) -> None:
        self.count, self.broken, self.num_reads = count, broken, 0

    def find(self, path: str) -> list[FileInfo]:
        return [FileInfo(f"/in/{number:04d}.png", len(self._content(number)), "1") for number in range(self.count)]

    def read(self, path: str, start: int = 0, size: int | None = None) -> bytes:
        self.num_reads += 1
        return self._content(int(path[-8:-4]))

    def open(self, path: str) -> io.BytesIO:
        raise MissingObjectError(path)

    def _content(self, number: int) -> bytes:
        if number in self.broken:
            return b"broken"
        buffer = io.BytesIO()
        colours = np.random.default_rng(number).integers(0, 256, (9 + number % 5, 11, 3), dtype=np.uint8)
        Image.fromarray(colours).save(buffer, "PNG")
        return buffer.getvalue()


def refuse(image: int, key: str, reason: str) -> None:
    raise AssertionError(f"{key}: {reason}")


def running() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith(("read", "decode"))}


@given(
    count=st.integers(0, 30),
    broken=st.frozensets(st.integers(0, 29)),
    sizes=st.lists(st.integers(1, 24), min_size=1, max_size=2),
    batch_size=st.integers(1, 9),
    num_threads=st.integers(1, 4),
)
def test_batches_are_the_decoded_images_in_order(
    count: int, broken: frozenset[int], sizes: list[int], batch_size: int, num_threads: int
) -> None:
    files = Photographs(max(count, 1), broken)
    images = list_images("/in", files).slice(0, count)
    errors: list[tuple] = []
    settings: dict[str, Any] = {
        "sizes": sizes,
        "crop": 0.8,
        "batch_size": batch_size,
        "decoder": InThreads(num_threads),
    }
    found = list(batches(images, files, **settings, on_error=lambda *error: errors.append(error)))

    good = [number for number in range(count) if number not in broken]
    assert [(image, key) for image, key, _ in errors] == [
        (number, f"{number:04d}.png") for number in range(count) if number in broken
    ]
    assert all("not one of" in reason for _, _, reason in errors)
    assert [batch.num_valid for batch in found] == [
        len(good[at : at + batch_size]) for at in range(0, len(good), batch_size)
    ]
    for at, batch in enumerate(found):
        expected = good[at * batch_size :][:batch_size]
        assert batch.images.tolist() == expected + [-1] * (batch_size - len(expected))
        for index, size in enumerate(sizes):
            assert batch.pixels[index].shape == (batch_size, 3, size, size)
            assert batch.pixels[index].is_contiguous(memory_format=torch.channels_last)
            assert not batch.pixels[index][len(expected) :].any()
            for row, number in enumerate(expected):
                assert torch.equal(batch.pixels[index][row], decode(files._content(number), sizes=[size], crop=0.8)[0])
    assert not running()


def some(files: Photographs, **changed: Any) -> Generator[ImageBatch, None, None]:
    settings: dict[str, Any] = {
        "sizes": [8],
        "crop": 0.9,
        "batch_size": 4,
        "on_error": refuse,
    } | changed
    return batches(list_images("/in", files), files, **settings)


def test_threads_end_when_the_consumer_stops_early() -> None:
    stream = some(Photographs(500))
    next(stream)
    assert running()
    stream.close()
    assert not running()

    for _ in some(Photographs(500)):
        break
    assert not running()


def test_nothing_runs_on_while_the_consumer_is_busy() -> None:
    files = Photographs(900)
    stream = some(files)
    next(stream)
    # What is decoded ahead, and before that what is read ahead: 64 requests of 8 files.
    assert 4 < files.num_reads <= 4 + (2 * 4 + 2 * 2 * 4 + 4) + 65 * 8
    stream.close()
    assert files.num_reads < 900


def test_storage_failures_reach_the_consumer_and_end_the_threads() -> None:
    files = Photographs(40)

    def fail(path: str, start: int = 0, size: int | None = None) -> bytes:
        raise StorageError(f"{path}: gone for good")

    files.read = fail
    with pytest.raises(StorageError, match="gone for good"):
        list(some(files))
    assert not running()


def test_what_on_error_raises_reaches_the_consumer() -> None:
    with pytest.raises(AssertionError, match=r"0005\.png: not one of"):
        list(some(Photographs(40, frozenset({5}))))
    assert not running()


def test_a_mistake_in_decoding_is_not_a_broken_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def mistaken(*_: object, **__: object) -> list[torch.Tensor]:
        raise TypeError("our own mistake")

    monkeypatch.setattr("mami_core.images.batch.decode", mistaken)
    with pytest.raises(TypeError, match="our own mistake"):
        list(some(Photographs(9)))
    assert not running()


@pytest.mark.parametrize("changed", [{"batch_size": 0}, {"sizes": []}, {"crop": 0.0}])
def test_impossible_settings_are_refused(changed: dict) -> None:
    with pytest.raises(ConfigError, match="expected"):
        list(some(Photographs(3), **changed))
    assert not running()
    with pytest.raises(ConfigError, match="at least 1 thread"):
        InThreads(0)


def test_two_streams_at_once() -> None:
    pairs = list(zip(some(Photographs(30)), some(Photographs(30), decoder=InThreads(1)), strict=True))
    assert len(pairs) == 8
    assert all(torch.equal(one.pixels[0], other.pixels[0]) for one, other in pairs)


@given(st.lists(st.integers(1, 20), max_size=40), st.integers(1, 30))
def test_work_ahead_is_in_order_and_bounded(weights: list[int], limit: int) -> None:
    begun: list[int] = []
    taken = 0

    def begin(item: tuple[int, int]) -> int:
        begun.append(item[0])
        return item[0]

    with threads(3, name="test") as pool:
        for result in ahead(pool, begin, enumerate(weights), weight=lambda item: item[1], limit=limit):
            assert result == taken
            ahead_of_us = sum(weights[taken : max(begun) + 1])
            assert ahead_of_us < limit + max(weights[taken : max(begun) + 1])
            taken += 1
    assert taken == len(weights)


def test_photographs(shared_data: Path) -> None:
    images = list_images(str(shared_data / "images" / "imagenet1k_sample"), LocalFiles()).slice(0, 70)
    one, two = (
        list(
            batches(
                images, LocalFiles(), sizes=[224, 64], crop=0.875, batch_size=32, decoder=InThreads(n), on_error=refuse
            )
        )
        for n in (1, 3)
    )
    assert [batch.num_valid for batch in one] == [32, 32, 6]
    assert pa.array(torch.cat([batch.images for batch in one]).tolist()[:70]) == images["image"].combine_chunks()
    for first, second in zip(one, two, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(first.pixels, second.pixels, strict=True))
