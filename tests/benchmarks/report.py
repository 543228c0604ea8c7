"""The report with very many neurons, in a real browser, from disk: time to the first view and to a search.

python -m tests.benchmarks.report [--neurons 100000]

The data are made up: captions of one to eight words, a score and a trust each, all with the same picture. What is
measured is what a reader waits for; the times are of a browser without a GPU.
"""

import argparse
import io
import itertools
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image

from jobs.reporting.layout import BLOCK_COLUMNS, BLOCK_ROWS, GROUP, SHEET, group_key, part_key
from jobs.reporting.neurons import script
from jobs.reporting.overview import site_files
from mami_core.contracts import REGION_SIDE
from tests.jobs.reporting.browser import Visit, browsing, find_browser

_PART, _PER_LAYER = 1024, 2048
_WORDS = [
    "red",
    "green",
    "blue",
    "dark",
    "bright",
    "round",
    "striped",
    "dotted",
    "wooden",
    "furry",
    "shiny",
    "small",
    "large",
    "vertical",
    "edges",
    "lines",
    "circles",
    "faces",
    "dogs",
    "cats",
    "birds",
    "wheels",
    "windows",
    "water",
    "sky",
    "grass",
    "hands",
    "text",
    "corners",
    "legs",
    "eyes",
    "fabric",
    "metal",
    "objects",
    "with",
    "and",
    "in",
    "of",
]


def write_site(folder: Path, neurons: int, sources: int = 1, seed: int = 0) -> None:
    """A report of so many neurons in each of its sources, as the report's own stages would write it."""
    random.seed(seed)
    for name, data in site_files().items():
        _write(folder / (name if name == "index.html" else f"site/{name}"), data)
    buffer = io.BytesIO()
    Image.effect_noise((BLOCK_COLUMNS * 288, BLOCK_ROWS * 288), 60).convert("RGB").save(buffer, "WEBP", quality=40)
    layers, first_part = [], 0
    for number, start in enumerate(range(0, neurons, _PER_LAYER)):
        units = min(_PER_LAYER, neurons - start)
        for source, (piece, first) in itertools.product(range(sources), enumerate(range(0, units, _PART))):
            _write_part(folder, source, first_part + piece, min(_PART, units - first), buffer.getvalue())
        layers.append({"name": f"blocks.{number}", "units": units, "first_part": first_part, **_said(units)})
        first_part += -(-units // _PART)
    source = {"neurons": neurons, "images": 50_000, "dropped": {"count": 0, "reasons": []}}
    source |= {"captioner": "made up", "run": "made up", "notes": [], "neurons_per_part": _PART, "layers": layers}
    overview: dict[str, Any] = {
        "title": "Many neurons",
        "group": GROUP,
        "blocks": {"columns": BLOCK_COLUMNS, "rows": BLOCK_ROWS},
    }
    overview |= {"sheet": SHEET, "region_side": REGION_SIDE, "pictures": True}
    overview["sources"] = [source | _said(neurons) | {"name": f"network {number}"} for number in range(sources)]
    _write(folder / "data/overview.js", script("overview", overview))


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _said(units: int) -> dict[str, Any]:
    plot = {"low": -3.0, "high": 0.0, "median": -1.5, "counts": [units // 40] * 40}
    words = [[word, units // 40] for word in _WORDS[:24]]
    captions = [["red edges", 3]] * 5
    return {"dead": 0, "distinct": units, "captions": captions, "words": words, "score": plot, "trust": plot}


def _write_part(folder: Path, source: int, part: int, count: int, picture: bytes) -> None:
    captions = [" ".join(random.choices(_WORDS, k=random.randint(1, 8))) for _ in range(count)]
    distinct = {caption: number for number, caption in enumerate(dict.fromkeys(captions))}
    index = {
        "caption": [distinct[caption] for caption in captions],
        "captions": list(distinct),
        "score": [round(random.uniform(-3, 0), 3) for _ in captions],
        "trust": [round(random.uniform(-0.2, 0.9), 3) for _ in captions],
        "top": [round(random.uniform(0, 30), 3) for _ in captions],
    }
    _write(folder / f"data/{part_key(source, part)}.js", script(part_key(source, part), index))
    for group, start in enumerate(range(0, count, GROUP)):
        key = group_key(source, part, group)
        details = [_detail(caption) for caption in captions[start : start + GROUP]]
        _write(folder / f"data/{key}.js", script(key, details))
        _write(folder / f"data/{key}.webp", picture)


def _detail(caption: str) -> dict[str, Any]:
    beams = [[caption if not number else f"{caption} {number}", -1.0, -5.0, -9.0] for number in range(5)]
    nothing = {"attention": None, "words": None, "histogram": None, "nearest": [], "more": []}
    shown = {"images": ["image.jpg"] * 15, "activations": [1.0] * 15, "regions": ["3 3 9 9 -9 -9"] * 15}
    return {"beams": beams, "threshold": 1.0, "active": 0.1, "photographs": [None] * 15, **shown, **nothing}


def measure(folder: Path, executable: str) -> dict[str, float]:
    """Seconds until a reader sees each thing, and the longest time that the page did not answer."""
    found: dict[str, float] = {}

    def timed(name: str, begin: float) -> None:
        found[name] = time.perf_counter() - begin

    with browsing(executable) as browser:
        visit = Visit(browser, folder, viewport={"width": 1280, "height": 800})
        page = visit.page
        page.add_init_script(
            "window.longest = 0; new PerformanceObserver(list => list.getEntries().forEach(entry =>"
            " window.longest = Math.max(window.longest, entry.duration))).observe({entryTypes: ['longtask']});"
        )
        begin = time.perf_counter()
        visit.open()
        timed("overview", begin)
        begin = time.perf_counter()
        page.goto(f"{visit.start}index.html#/gallery?layer=blocks.3")
        page.locator(".card").first.wait_for()
        timed("a layer's first cards", begin)
        begin = time.perf_counter()
        page.goto(f"{visit.start}index.html#/gallery")
        page.locator(".card").first.wait_for()
        timed("first cards of all layers", begin)
        page.locator("main .note", has_not_text="Loading").wait_for()
        timed("all layers read", begin)
        begin = time.perf_counter()
        page.fill("#search", "furry dogs")
        page.locator(".card h2", has_text="furry").first.wait_for()
        timed("a search", begin)
        begin = time.perf_counter()
        page.get_by_label("Sort by", exact=True).select_option("trust")
        page.locator(".card .numbers", has_text="trust 0.9").first.wait_for()
        timed("sorted by trust", begin)
        found["longest without an answer"] = page.evaluate("window.longest") / 1000
        visit.close()
    return found


def measure_beside(folder: Path, executable: str) -> dict[str, float]:
    """The same of two runs side by side."""
    found: dict[str, float] = {}
    with browsing(executable) as browser:
        visit = Visit(browser, folder, viewport={"width": 1280, "height": 800})
        begin = time.perf_counter()
        page = visit.open("#/beside")
        page.locator(".card").first.wait_for()
        found["side by side, first rows"] = time.perf_counter() - begin
        page.locator("main .note", has_not_text="Loading").wait_for()
        found["all rows read"] = time.perf_counter() - begin
        begin = time.perf_counter()
        page.fill("#search", "furry dogs")
        page.locator(".card h2", has_text="furry").first.wait_for()
        found["a search"] = time.perf_counter() - begin
        visit.close()
    return found


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--neurons", type=int, default=100_000)
    neurons = parser.parse_args().neurons
    executable = find_browser()
    if executable is None:
        raise SystemExit("no Chromium here (apt-get install chromium, or MAMI_BROWSER=its path)")
    for sources, measured in ((1, measure), (2, measure_beside)):
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            write_site(Path(folder), neurons // sources, sources)
            size = sum(file.stat().st_size for file in Path(folder).rglob("*.js")) / 1e6
            print(f"{neurons:,} neurons: {size:,.0f} MB of data written in {time.perf_counter() - start:.0f} s")
            for name, seconds in measured(Path(folder), executable).items():
                print(f"  {name:<28}{seconds:8.2f} s")


if __name__ == "__main__":
    main()
