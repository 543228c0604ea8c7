"""Bytes → pixels: what every kind of picture becomes, and that broken ones say so."""

import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from mami_core.errors import ConfigError, ImageError
from mami_core.images import decode, pixels
from mami_core.sizes import Filter, Size


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """A smooth colourful picture, different at every corner."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(data: bytes, size: int, crop: float = 1.0) -> np.ndarray:
    """Height x width x 3, as int."""
    (square,) = decode(data, sizes=[size], crop=crop)
    return square.permute(1, 2, 0).numpy().astype(int)


def reference(image: Image.Image, size: int, crop: float) -> np.ndarray:
    """The field of view as Pillow gives it."""
    width, height = image.size
    side = max(1, round(crop * min(width, height)))
    left, top = (width - side) // 2, (height - side) // 2
    square = image.convert("RGB").crop((left, top, left + side, top + side))
    return np.asarray(square.resize((size, size), Image.Resampling.BILINEAR)).astype(int)


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 70), st.floats(0.3, 1.0))
def test_field_of_view_is_the_centred_square_as_pillow_resizes_it(
    width: int, height: int, size: int, crop: float
) -> None:
    image = picture(width, height)
    assert abs(decoded(encoded(image), size, crop) - reference(image, size, crop)).max() <= 1


@pytest.mark.parametrize("name", ["bilinear", "bicubic", "lanczos", "box", "hamming", "nearest"])
def test_every_filter_is_pillow_s_for_squares_and_for_other_shapes(name: Filter) -> None:
    image = picture(130, 90)
    square = image.crop((20, 0, 110, 90))
    for height, width in ((48, 48), (32, 200)):
        (pixels,) = decode(encoded(image), sizes=[Size(height, width, name)], crop=1.0)
        expected = np.asarray(square.resize((width, height), Image.Resampling[name.upper()])).astype(int)
        found = pixels.permute(1, 2, 0).numpy().astype(int)
        assert abs(found - expected).max() <= (2 if name == "bicubic" else 1)


def test_far_smaller_and_far_larger_agree_with_pillow() -> None:
    image = picture(1500, 1100)
    assert abs(decoded(encoded(image), 24, 0.875) - reference(image, 24, 0.875)).max() <= 1
    image = picture(3, 5)
    assert abs(decoded(encoded(image), 300, 0.875) - reference(image, 300, 0.875)).max() <= 1


@given(st.lists(st.integers(1, 160), min_size=1, max_size=4), st.integers(40, 900), st.sampled_from(["JPEG", "PNG"]))
def test_a_size_does_not_depend_on_the_others(sizes: list[int], side: int, kind: str) -> None:
    data = encoded(picture(side + 31, side), kind)
    for size, square in zip(sizes, decode(data, sizes=sizes, crop=0.875), strict=True):
        assert square.shape == (3, size, size)
        assert torch.equal(square, decode(data, sizes=[size], crop=0.875)[0])


def test_bits_do_not_depend_on_threads() -> None:
    data = [encoded(picture(300 + step, 280, seed=step), "JPEG") for step in range(24)]
    before = torch.get_num_threads()
    alone = [decoded(item, 224) for item in data]
    try:
        torch.set_num_threads(3)
        with ThreadPoolExecutor(5) as pool:
            together = list(pool.map(lambda item: decoded(item, 224), data))
    finally:
        torch.set_num_threads(before)
    assert all(np.array_equal(one, other) for one, other in zip(alone, together, strict=True))


# --- JPEG: two decoders ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("options", [{}, {"progressive": True, "subsampling": 2}, {"subsampling": 0, "quality": 30}])
def test_both_jpeg_decoders_give_the_same_bits(mode: str, options: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(picture(131, 97).convert(mode), "JPEG", **options)
    fast = decoded(data, 61, 0.875)

    assert pixels._jpeg(data).shape == (97, 131, 3)
    monkeypatch.setattr(torch.ops, "image", object())
    with pytest.raises(RuntimeError):
        pixels._jpeg(data)
    assert np.array_equal(decoded(data, 61, 0.875), fast)


@pytest.mark.parametrize("factor", [4.1, 8.5, 17])
def test_large_jpegs_are_decoded_small_and_look_the_same(factor: float) -> None:
    size = 56
    image = picture(int(factor * size * 1.3), int(factor * size))
    data = encoded(image, "JPEG", quality=95)
    assert pixels._scale(*Image.open(io.BytesIO(data)).size, 1.0, Size.of(size)) > 1
    assert abs(decoded(data, size) - reference(Image.open(io.BytesIO(data)), size, 1.0)).mean() < 1.5


# --- kinds of pictures -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P"])
def test_modes_become_rgb(mode: str, kind: str) -> None:
    image = picture(20, 20).convert(mode)
    data = encoded(image.convert("RGB") if (mode, kind) == ("P", "PPM") else image, kind, **LOSSLESS.get(kind, {}))
    assert abs(decoded(data, 20) - np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))).max() == 0
    assert abs(decoded(data, 20) - np.asarray(image.convert("RGB"))).mean() < (12 if kind == "GIF" else 1)


LOSSLESS = {"WEBP": {"lossless": True}}


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_becomes_rgb(kind: str) -> None:
    image = picture(64, 64).convert("CMYK")
    assert abs(decoded(encoded(image, kind), 64) - np.asarray(image.convert("RGB"))).mean() < 4


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_is_scaled_not_clipped(kind: str) -> None:
    values = np.linspace(0, 65535, 32 * 32).round().astype(np.uint16).reshape(32, 32)
    expected = np.round(values / 257).astype(int)
    assert np.array_equal(decoded(encoded(Image.fromarray(values), kind), 32), np.stack([expected] * 3, axis=2))


@pytest.mark.parametrize(("mode", "typecode"), [("I", np.int32), ("F", np.float32)])
def test_pixels_without_a_stated_range_are_refused(mode: str, typecode: type) -> None:
    data = encoded(Image.fromarray(np.zeros((8, 8), typecode)), "TIFF")
    with pytest.raises(ImageError, match="range"):
        decode(data, sizes=[8], crop=1.0)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_what_is_transparent_lies_on_white(kind: str) -> None:
    red = Image.new("RGBA", (16, 16), (200, 0, 0, 255))
    red.paste((0, 0, 0, 0), (0, 0, 8, 16))
    seen = decoded(encoded(red, kind, **LOSSLESS.get(kind, {})), 16)
    assert (seen[:, :8] == 255).all()
    assert (seen[:, 8:] == [200, 0, 0]).all()


def test_half_transparent_grey_is_half_white() -> None:
    assert (decoded(encoded(Image.new("LA", (8, 8), (0, 51))), 8) == 204).all()


@pytest.mark.parametrize("transparency", [1, bytes([255, 0, 128])])
def test_transparent_palette_entries_are_white(transparency: int | bytes) -> None:
    image = Image.new("P", (9, 9), 1)
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.paste(0, (0, 0, 9, 4))
    seen = decoded(encoded(image, transparency=transparency), 9)
    assert (seen[:4] == [10, 20, 30]).all()
    assert (seen[4:] == 255).all()


def test_transparent_colour_of_an_rgb_png_is_white() -> None:
    image = Image.new("RGB", (8, 8), (1, 2, 3))
    image.paste((9, 9, 9), (0, 0, 8, 4))
    seen = decoded(encoded(image, transparency=(1, 2, 3)), 8)
    assert (seen[:4] == 9).all()
    assert (seen[4:] == 255).all()


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animations_show_their_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (12, 12), colour) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **LOSSLESS.get(kind, {}))
    assert (decoded(data, 12) == [250, 0, 0]).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("crop", [1.0, 0.6])
def test_exif_orientation_is_applied(orientation: int, kind: str, crop: float) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(picture(37, 28), kind, exif=exif, **LOSSLESS.get(kind, {}))
    stored = Image.open(io.BytesIO(data))
    stored.load()
    upright = ImageOps.exif_transpose(stored)
    assert upright.size == ((28, 37) if orientation > 4 else (37, 28))
    side = round(crop * 28)  # The size of the square itself: nothing is resized, so every bit must agree.
    assert np.array_equal(decoded(data, side, crop), reference(upright, side, crop))


def test_orientation_of_a_large_jpeg_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(picture(700, 500), "JPEG", exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert abs(decoded(data, 40) - reference(upright, 40, 1.0)).mean() < 1.5


def test_damaged_exif_costs_nothing() -> None:
    data = encoded(picture(30, 30), "PNG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert np.array_equal(decoded(data, 30), np.asarray(picture(30, 30)))


@pytest.mark.parametrize("shape", [(1, 1), (1, 4000), (4000, 1), (2, 3)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_tiny_images_work(shape: tuple[int, int], kind: str) -> None:
    seen = decoded(encoded(Image.new("RGB", shape, (40, 80, 120)), kind), 32, 0.875)
    assert abs(seen - [40, 80, 120]).max() <= 2


# --- broken ------------------------------------------------------------------------------------------------------


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(64))) + chunk(b"IEND", b"")


GOOD_JPEG = encoded(picture(200, 150), "JPEG")
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"\0" * 4096, "not one of JPEG, PNG"),
        (b"hello, I am a text file with the wrong name", "not one of JPEG, PNG"),
        (EPS, "not one of JPEG, PNG"),
        (GOOD_JPEG[:2], "not one of|cannot be decoded"),
        (GOOD_JPEG[: len(GOOD_JPEG) // 2], "truncated"),
        (encoded(picture(90, 90))[:1000], "cannot be decoded"),
        (encoded(picture(90, 90), "WEBP")[:300], "cannot be decoded|not one of"),
        (encoded(picture(90, 90), "TIFF")[:9000], "cannot be decoded"),
        (encoded(picture(90, 90), "BMP")[:900], "truncated"),
        (png_header(30_000, 30_000), "pixels"),
        (png_header(0, 30), "cannot be decoded|not one of"),
    ],
)
def test_broken_files_say_why(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason) as first:
        decode(data, sizes=[24], crop=0.875)
    with pytest.raises(ImageError) as second:
        decode(data, sizes=[24], crop=0.875)
    assert str(first.value) == str(second.value)
    assert len(str(first.value)) <= 200
    assert " at 0x" not in str(first.value)


def test_size_limit_is_ours_where_pillow_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(ImageError, match="30000 x 30000 pixels are more"):
        decode(png_header(30_000, 30_000), sizes=[24], crop=0.875)


@pytest.mark.parametrize(
    "problem",
    [struct.error("unpack"), SyntaxError("broken"), OverflowError(), MemoryError(), RecursionError(), KeyError(7)],
)
def test_whatever_a_decoder_raises_is_an_image_error(problem: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> Image.Image:
        raise problem

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(ImageError, match=r"cannot be decoded: ."):
        decode(b"anything", sizes=[24], crop=0.875)


@pytest.mark.parametrize(("sizes", "crop"), [([], 0.875), ([0], 0.875), ([24], 0.0), ([24], 1.5), ([24], float("nan"))])
def test_impossible_settings_are_refused(sizes: list[int], crop: float) -> None:
    with pytest.raises(ConfigError, match="expected sizes"):
        decode(GOOD_JPEG, sizes=sizes, crop=crop)


def test_photographs(shared_data: Path) -> None:
    for path in sorted((shared_data / "images").rglob("*.jp*g"))[:2000:100]:
        image = Image.open(path).convert("RGB")
        assert abs(decoded(path.read_bytes(), 224, 0.875) - reference(image, 224, 0.875)).max() <= 1
