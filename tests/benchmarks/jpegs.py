"""JPEG files as from cameras, as many as wanted, from few pictures: each is cut, mirrored and tinted its own way."""

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from tests.benchmarks.pictures import pictures

WIDTH, HEIGHT, BASES = 500, 375, 48


def write_jpegs(folder: Path, count: int, *, threads: int = 16) -> int:
    """Writes `count` different photographs of 500 × 375 pixels; their size in bytes."""
    bases = pictures(BASES, WIDTH + 100).permute(0, 2, 3, 1).numpy()
    folder.mkdir(parents=True, exist_ok=True)

    def write(number: int) -> int:
        generator = np.random.default_rng(number)
        left, top = (int(each) for each in generator.integers(0, 100, 2))
        picture = bases[number % BASES][top : top + HEIGHT, left : left + WIDTH, generator.permutation(3)]
        picture = picture[:: int(generator.choice([-1, 1])), :: int(generator.choice([-1, 1]))]
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(picture)).save(buffer, "JPEG", quality=90)
        (folder / f"{number:06d}.jpg").write_bytes(buffer.getvalue())
        return len(buffer.getvalue())

    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(write, range(count)))
