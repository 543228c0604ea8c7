"""Images: JPEG files to square pixels."""

import io
import itertools
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
import torchvision.io  # noqa: F401  (brings its JPEG decoder into torch.ops)
from PIL import Image

from jobs.labelling.photographs import photographs
from mami_core.images import InThreads, LocalFiles, batches, decode, list_images
from tests.benchmarks import measure
from tests.benchmarks.measure import Options, Row, Way, interleaved

COUNT, SIZE, CROP, BATCH, THREADS = 2048, 224, 0.875, 32, 2


def rows(options: Options) -> Iterator[Row]:
    """One line a size of the files."""
    for width, height in ((500, 375), (1600, 1200)):
        with tempfile.TemporaryDirectory() as folder:
            count = max(BATCH, round(COUNT * options.share * (500 / width)))
            yield _row(Path(folder), width, height, count, options)


def _row(folder: Path, width: int, height: int, count: int, options: Options) -> Row:
    paths = write_photographs(folder, width, height, count)
    table, few = list_images(str(folder), LocalFiles()), paths[: count // 4]
    ways = {
        "ours": Way(lambda: ours(table)),
        "plain": Way(lambda: [plainly(path) for path in few], share=len(few) / count),
        "floor": Way(lambda: libjpeg(paths)),
    }
    return Row(
        stage=f"images, {width} × {height}",
        work=f"{count} JPEG photographs of quality 90 to {SIZE} px, {THREADS} threads; the floor decodes them and no "
        f"more; the plain way on {len(few)}, scaled",
        timings=interleaved(ways, options),
        at_most=1 / 0.7,
        same=compare(paths),
    )


def write_photographs(folder: Path, width: int, height: int, count: int) -> list[Path]:
    """Windows of the demo's photographs, each of another place."""
    generator = np.random.default_rng(0)
    paths = []
    for number, (_, pixels) in zip(range(count), itertools.cycle(list(photographs())), strict=False):
        photo = Image.fromarray(pixels).convert("RGB")
        side = min(photo.width, photo.height * width // height)
        left = int(generator.integers(photo.width - side + 1))
        top = int(generator.integers(photo.height - side * height // width + 1))
        window = photo.crop((left, top, left + side, top + side * height // width))
        paths.append(folder / f"{number:04d}.jpg")
        window.resize((width, height), Image.Resampling.BICUBIC).save(paths[-1], quality=90)
    return paths


def ours(table: pa.Table) -> int:
    stream = batches(
        table, LocalFiles(), sizes=(SIZE,), crop=CROP, batch_size=BATCH, decoder=InThreads(THREADS), on_error=_fail
    )
    return sum(batch.num_valid for batch in stream)


def _fail(image: int, key: str, reason: str) -> None:
    raise AssertionError(f"{key}: {reason}")


def libjpeg(paths: list[Path]) -> None:
    """libjpeg-turbo by way of torchvision: the file's bytes to all of its pixels."""

    def read(path: Path) -> None:
        torch.ops.image.decode_jpeg(torch.from_numpy(np.fromfile(path, np.uint8)), 3, False)

    with ThreadPoolExecutor(THREADS) as pool:
        for _ in pool.map(read, paths):
            pass


def plainly(path: Path) -> np.ndarray:
    """As the usual transforms do it: all pixels with Pillow, resized, cropped, one image after the other."""
    photo = Image.open(io.BytesIO(path.read_bytes())).convert("RGB")
    short = round(SIZE / CROP)
    scale = short / min(photo.size)
    photo = photo.resize((round(photo.width * scale), round(photo.height * scale)), Image.Resampling.BILINEAR)
    left, top = (photo.width - SIZE) // 2, (photo.height - SIZE) // 2
    return np.asarray(photo.crop((left, top, left + SIZE, top + SIZE)))


def compare(paths: list[Path]) -> str:
    """Cutting before resizing moves the grid by a part of a pixel, and decoding small leaves out fine detail."""
    apart = 0.0
    for path in paths[:8]:
        (pixels,) = decode(path.read_bytes(), sizes=(SIZE,), crop=CROP)
        apart = max(apart, float(np.abs(pixels.permute(1, 2, 0).numpy().astype(int) - plainly(path)).mean()))
    assert apart < 8, apart
    return f"within {apart:.1f} grey levels on average"


if __name__ == "__main__":
    measure.main(rows)
