"""The photographs that scikit-image and scikit-learn ship, cropped at several scales: the demo's image set."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

SCALES = (1.0, 0.7, 0.5, 0.35)
"""Sides of the square windows, as shares of the photograph's short side."""

FROM_SCIKIT_IMAGE = (
    "astronaut",
    "brick",
    "camera",
    "cell",
    "chelsea",
    "clock",
    "coffee",
    "coins",
    "grass",
    "gravel",
    "hubble_deep_field",
    "immunohistochemistry",
    "moon",
    "retina",
    "rocket",
)


def write_photographs(folder: Path, *, size: int = 288) -> int:
    """Write every crop to `folder` as a JPEG of `size` pixels, once; returns how many there are.

    A marker beside the folder, written last, tells that it is finished: a second call changes nothing.
    """
    marker = folder.with_name(f".{folder.name}-complete")
    if marker.exists():
        return int(marker.read_text())
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for name, pixels in photographs():
        for number, crop in enumerate(crops(Image.fromarray(pixels).convert("RGB"))):
            crop.resize((size, size), Image.Resampling.LANCZOS).save(folder / f"{name}-{number:02d}.jpg", quality=92)
            count += 1
    marker.write_text(str(count))
    return count


def photographs() -> Iterator[tuple[str, np.ndarray]]:
    """Each photograph with its name, as uint8 height × width (× 3)."""
    import skimage.data  # only the demo needs these two packages
    from sklearn.datasets import load_sample_images

    for name in FROM_SCIKIT_IMAGE:
        yield name, getattr(skimage.data, name)()
    yield "motorcycle", skimage.data.stereo_motorcycle()[0]
    samples = load_sample_images()
    for file, pixels in zip(samples.filenames, samples.images, strict=True):
        yield Path(file).stem, pixels


def crops(photograph: Image.Image) -> Iterator[Image.Image]:
    """Square windows at every scale, evenly spread, overlapping by a quarter or more."""
    short = min(photograph.size)
    for scale in SCALES:
        side = round(scale * short)
        for top in _starts(photograph.height, side):
            for left in _starts(photograph.width, side):
                yield photograph.crop((left, top, left + side, top + side))


def _starts(length: int, side: int) -> list[int]:
    count = math.ceil((length - side) / (0.75 * side)) + 1
    return [round(start) for start in np.linspace(0, length - side, count)]
