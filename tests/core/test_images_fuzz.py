"""Damaged real images: each is decoded or says what is wrong, and none crashes, hangs or leaks."""

import gc
import io
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mami_core.errors import ImageError
from mami_core.images import decode


def originals() -> list[bytes]:
    """Small images of every format, in the flavours that decoders treat differently."""
    coarse = np.random.default_rng(0).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((61, 47), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a description"
    flavours: list[tuple[str, Image.Image, dict]] = [
        ("JPEG", image, {"exif": exif}),
        ("JPEG", image, {"progressive": True, "quality": 30}),
        ("JPEG", image.convert("CMYK"), {}),
        ("JPEG", image.resize((400, 300)).convert("L"), {}),
        ("PNG", image, {"exif": exif}),
        ("PNG", image.convert("P"), {"transparency": 3}),
        ("PNG", image.convert("RGBA"), {"save_all": True, "append_images": [image.convert("RGBA")]}),
        ("PNG", Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20)), {}),
        ("WEBP", image, {"exif": exif}),
        ("WEBP", image.convert("RGBA"), {"lossless": True}),
        ("WEBP", image, {"save_all": True, "append_images": [image.rotate(90)]}),
        ("BMP", image, {}),
        ("BMP", image.convert("P"), {}),
        ("GIF", image.convert("P"), {"save_all": True, "append_images": [image.rotate(90).convert("P")]}),
        ("TIFF", image, {"exif": exif}),
        ("TIFF", image, {"compression": "tiff_lzw"}),
        ("TIFF", image, {"compression": "jpeg"}),
        ("TIFF", image.convert("1"), {"compression": "group4"}),
        ("PPM", image, {}),
        ("PPM", image.convert("L"), {}),
    ]
    return [_encoded(*flavour) for flavour in flavours]


def _encoded(kind: str, image: Image.Image, options: dict) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def mutated(data: bytes, other: bytes, chance: random.Random) -> bytes:
    """The image with one kind of damage: cut off, bytes changed, moved, left out, or the end of another image."""
    damaged = bytearray(data)
    at, length = chance.randrange(len(data)), chance.randrange(1, 40)
    match chance.randrange(7):
        case 0:
            return data[:at]
        case 1:
            del damaged[at : at + length]
        case 2:
            damaged[at:at] = chance.randbytes(length)
        case 3:
            damaged[at : at + length] = bytes([chance.choice([0, 255])]) * length
        case 4:
            return data[:at] + other[chance.randrange(len(other)) :]
        case 5:  # The header, where sizes and counts are.
            damaged[chance.randrange(min(64, len(data)))] = chance.randrange(256)
        case _:
            for _ in range(chance.randrange(1, 12)):
                damaged[chance.randrange(len(damaged))] = chance.randrange(256)
    return bytes(damaged)


def survive(images: list[bytes], count: int, seed: int) -> tuple[int, set[str]]:
    """Decode damaged images; how many could still be decoded, and the reasons of the others."""
    chance, num_decoded, reasons = random.Random(seed), 0, set()
    for number in range(count):
        damaged = mutated(images[number % len(images)], chance.choice(images), chance)
        try:
            (square,) = decode(damaged, sizes=[20], crop=0.875)
        except ImageError as problem:
            reasons.add(str(problem))
        else:
            assert square.shape == (3, 20, 20)
            assert square.dtype == torch.uint8
            num_decoded += 1
    assert all(0 < len(reason) <= 200 and " at 0x" not in reason for reason in reasons)
    return num_decoded, reasons


def resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_originals_are_whole() -> None:
    assert all(len(decode(data, sizes=[20], crop=0.875)) == 1 for data in originals())


def test_damaged_images_are_decoded_or_refused() -> None:
    num_decoded, reasons = survive(originals(), 1200, seed=1)
    assert 120 <= num_decoded <= 1080
    assert len(reasons) >= 10


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_thousands_of_damaged_images_neither_crash_nor_leak(shared_data: Path) -> None:
    photographs = [path.read_bytes() for path in sorted((shared_data / "images").rglob("*.jp*g"))[::40]]
    images = originals() + photographs
    survive(images, 1000, seed=2)
    before = resident_bytes()
    num_decoded, reasons = survive(images, 12_000, seed=3)
    assert 1200 <= num_decoded <= 10_800
    assert len(reasons) >= 20
    assert resident_bytes() - before < 100 << 20
