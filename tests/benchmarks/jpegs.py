"""JPEG files as from cameras, as many as wanted, from few pictures: each is cut, mirrored and tinted its own way."""

import io
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from tests.benchmarks.pictures import pictures

WIDTH, HEIGHT, BASES = 500, 375, 48


def write_jpegs(folder: Path, count: int, *, processes: int | None = None) -> int:
    """Writes `count` different photographs of 500 × 375 pixels; their size in bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    bases = pictures(BASES, WIDTH + 100).permute(0, 2, 3, 1).numpy()
    processes = processes or min(16, os.cpu_count() or 1, count // 64 + 1)
    shares = [range(first, count, processes) for first in range(processes)]
    if processes == 1:
        return _write(folder, bases, shares[0])
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        return sum(pool.map(_write, [folder] * processes, [bases] * processes, shares))


def _write(folder: Path, bases: np.ndarray, numbers: range) -> int:
    written = 0
    for number in numbers:
        generator = np.random.default_rng(number)
        left, top = (int(each) for each in generator.integers(0, 100, 2))
        picture = bases[number % BASES][top : top + HEIGHT, left : left + WIDTH, generator.permutation(3)]
        picture = picture[:: int(generator.choice([-1, 1])), :: int(generator.choice([-1, 1]))]
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(picture)).save(buffer, "JPEG", quality=90)
        (folder / f"{number:06d}.jpg").write_bytes(buffer.getvalue())
        written += len(buffer.getvalue())
    return written
