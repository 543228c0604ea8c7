"""Which files a GPU decodes, and what is seen of them: known from their headers, on any machine."""

import ctypes
import io
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mami_core.images.ahead import runs
from mami_core.images.jpeg_header import plain_size
from mami_core.images.jpeg_view import Seen, gpu_view
from mami_core.images.nvjpeg import Decoder, _path_in
from mami_core.images.pixels import view_of

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8))


def saved(picture: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


DECODED = {
    "plain": saved(PICTURE),
    "grey": saved(PICTURE.convert("L")),
    "progressive": saved(PICTURE, progressive=True),
    "commented": saved(PICTURE, comment=b"\xff\xda of a scan"),
    "turned": saved(PICTURE, exif=turned(6)),
    "with a profile": saved(PICTURE, icc_profile=b"profile" * 99),
}


@pytest.mark.parametrize("kind", DECODED)
def test_what_is_seen_is_what_pillow_reads_off_the_header(kind: str) -> None:
    data = DECODED[kind]
    photo = Image.open(io.BytesIO(data))
    assert gpu_view(data, 0.875) == Seen(*photo.size, view_of(photo, 0.875))
    assert (plain_size(data) is None) == (kind in ("turned", "with a profile"))


@pytest.mark.parametrize(
    "data",
    [
        saved(PICTURE.convert("CMYK")),
        saved(PICTURE, "PNG"),
        DECODED["plain"][:30],
        DECODED["plain"][:-5],
        DECODED["plain"] + b"more",
        DECODED["plain"][:2],
        b"",
        b"\xff\xd8" + b"\xff" * 99,
        b"\xff\xd8\xff\xc0\x00\x00" + bytes(50),
    ],
)
def test_everything_else_is_left_to_the_cpu(data: bytes) -> None:
    assert gpu_view(data, 0.875) is None


def test_a_header_of_two_sizes_is_not_trusted() -> None:
    data = DECODED["plain"]
    at = data.index(b"\xff\xc0")
    frame = data[at : at + 2 + int.from_bytes(data[at + 2 : at + 4])]
    smaller = frame[:5] + bytes((0, 8, 0, 8)) + frame[9:]
    assert plain_size(data) == PICTURE.size
    assert plain_size(data[:at] + smaller + data[at:]) is None


class Library(ctypes.CDLL):
    """Does nothing, and reads one size off every header."""

    def __init__(self, width: int, height: int) -> None:
        self.size = width, height

    def __getattr__(self, name: str) -> Any:
        return lambda *_: 0

    def nvjpegJpegStreamGetFrameDimensions(self, _header: Any, *found: Any) -> int:
        for number, value in zip(found, self.size, strict=True):
            number._obj.value = value
        return 0

    def nvjpegDecodeBatchedSupported(self, _handle: Any, _header: Any, answer: Any) -> int:
        answer._obj.value = 0
        return 0


def test_nvjpeg_writes_only_where_there_is_room_for_what_it_reads_off_the_header() -> None:
    decoder, data = Decoder(Library(53, 37)), torch.zeros(9, dtype=torch.uint8)
    assert decoder._is_able(data, torch.empty(3, 37, 53))
    assert not decoder._is_able(data, torch.empty(3, 53, 37))
    assert not decoder._is_able(data, torch.empty(3, 37, 52))


@given(st.lists(st.integers(1, 20)), st.integers(1, 30))
def test_runs_hold_everything_in_order_and_no_more_than_fits(sizes: list[int], most: int) -> None:
    found = [sizes[run] for run in runs(sizes, most=most)]
    assert list(itertools.chain(*found)) == sizes
    assert all(len(some) == 1 or sum(some) <= most for some in found)
    assert all(sum(some) + after[0] > most for some, after in itertools.pairwise(found))


def test_nvjpegs_library_is_found_where_a_path_has_spaces() -> None:
    maps = """55d0-55d1 r-xp 00000000 08:01 7 /usr/bin/python3
7f00-7f01 rw-p 00000000 00:00 0
7f02-7f03 r-xp 00000000 08:01 9                          /home/my own/lib/libnvjpeg.so.13
"""
    assert _path_in(maps) == "/home/my own/lib/libnvjpeg.so.13"
    assert _path_in(maps.replace("nvjpeg", "jpeg")) is None
