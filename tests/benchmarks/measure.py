"""Timing several ways of doing the same work in one process, in turns, and a table of what came out.

A busy neighbour slows a machine for seconds at a time. So the ways take turns, and a ratio is the median of the rounds'
own ratios. On one thread the clock is the process's CPU time, which does not run while a neighbour has the core.
"""

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

HEADER = """\
| stage | work | ours, s | plain way, s | floor, s | ours ÷ floor | plain ÷ ours | peak memory, MiB | same result |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |"""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

    threads: int
    rounds: int
    share: float
    """Of the full work that our way and the floor do."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way of doing the work."""

    run: Callable[[], object]
    share: float = 1.0
    """Of the work of the row that one run does; its time is divided by it."""


@dataclass(frozen=True, slots=True)
class Timing:
    """What the rounds of one way took, for the whole work of the row."""

    cpu_s: tuple[float, ...]
    wall_s: tuple[float, ...]
    peak_mib: float
    """The most memory that the process had in use above what it had before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table."""

    stage: str
    work: str
    timings: Mapping[str, Timing]
    """By way: "ours", and "plain" or "floor" where there is one."""
    at_most: float | None = None
    """Ours ÷ floor must not exceed it."""
    at_least: float | None = None
    """Plain ÷ ours must reach it."""
    same: str = "—"
    clock: str = "cpu_s"

    def __str__(self) -> str:
        """The line, as Markdown; a bold ratio misses its target, which stands beside it."""
        seconds = [self._seconds(way) for way in ("ours", "plain", "floor")]
        over = _ratio(self._median_ratio("ours", "floor"), self.at_most, "≤")
        under = _ratio(self._median_ratio("plain", "ours"), self.at_least, "≥")
        peak = f"{self.timings['ours'].peak_mib:.0f}"
        return "| " + " | ".join([self.stage, self.work, *seconds, over, under, peak, self.same]) + " |"

    def _seconds(self, way: str) -> str:
        return f"{statistics.median(getattr(self.timings[way], self.clock)):.3g}" if way in self.timings else "—"

    def _median_ratio(self, one: str, other: str) -> float | None:
        if one not in self.timings or other not in self.timings:
            return None
        pairs = zip(getattr(self.timings[one], self.clock), getattr(self.timings[other], self.clock), strict=True)
        return statistics.median(first / second for first, second in pairs)


def _ratio(value: float | None, target: float | None, sign: str) -> str:
    if value is None:
        return "—"
    if target is None:
        return f"{value:.2f}"
    met = value <= target if sign == "≤" else value >= target
    shown = f"{value:.2f}" if met else f"**{value:.2f}**"
    return f"{shown} ({sign} {target:.3g})"


def interleaved(ways: Mapping[str, Way], options: Options) -> dict[str, Timing]:
    """Each way once in every round, after one round that is not counted."""
    runs: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ways}
    for _ in range(options.rounds + 1):
        for name, way in ways.items():
            cpu, wall, peak = _run(way.run)
            runs[name].append((cpu / way.share, wall / way.share, peak))
    counted = {name: list(zip(*of_way[1:], strict=True)) for name, of_way in runs.items()}
    return {name: Timing(cpu, wall, max(peaks)) for name, (cpu, wall, peaks) in counted.items()}


def _run(function: Callable[[], object]) -> tuple[float, float, float]:
    gc.collect()
    before = _reset_peak()
    cpu, wall = time.process_time(), time.perf_counter()
    function()
    return time.process_time() - cpu, time.perf_counter() - wall, max(0.0, _peak() - before)


def _reset_peak() -> float:
    clear = Path("/proc/self/clear_refs")
    if clear.exists():  # Linux: forget the highest resident size so far
        clear.write_text("5")
    return _peak()


def _peak() -> float:
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), float("nan"))


def arguments() -> argparse.ArgumentParser:
    """The options that every benchmark takes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=1, help="torch's threads; ratios are quoted from one")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--share", type=float, default=0.25, help="of the full work, for our way and the floor")
    return parser


def main(rows: Callable[[Options], Iterator[Row]]) -> None:
    """Run one stage's benchmarks and print their lines as they come."""
    chosen = arguments().parse_args()
    torch.set_num_threads(chosen.threads)
    for row in rows(Options(chosen.threads, chosen.rounds, chosen.share)):
        print(row, flush=True)


def clock_of(options: Options) -> str:
    """CPU time on one thread; on several, which also wait for each other, the time that passes."""
    return "cpu_s" if options.threads == 1 else "wall_s"
