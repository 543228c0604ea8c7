"""Which files a GPU decodes, and what is seen of them: known from their headers, on any machine."""

import io

import numpy as np
import pytest
from PIL import Image

from mami_core.images.on_gpu import Seen, _plain_size, gpu_view
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
    assert (_plain_size(data) is None) == (kind in ("turned", "with a profile"))


@pytest.mark.parametrize(
    "data",
    [
        saved(PICTURE.convert("CMYK")),
        saved(PICTURE, "PNG"),
        DECODED["plain"][:30],
        DECODED["plain"][:2],
        b"",
        b"\xff\xd8" + b"\xff" * 99,
        b"\xff\xd8\xff\xc0\x00\x00" + bytes(50),
    ],
)
def test_everything_else_is_left_to_the_cpu(data: bytes) -> None:
    assert gpu_view(data, 0.875) is None
