"""Trains every way of `ways.py` with several seeds and writes down what each says, for `quality.py` to score.

python -m tests.benchmarks.quality_train --data NEURONS.safetensors --out FOUND.json.gz [--device cuda]

Needs torch, numpy, safetensors, jaxtyping and pyarrow, and no other file: it runs on a machine that has nothing else.
Captions of validation and test neurons are chosen from one beam at every point of a grid of λ, length penalty and
window. The output is written anew after every few captioners, so that what was reached before a time limit is kept.
"""

import argparse
import functools
import gzip
import itertools
import json
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from mami_core.captions.decode import DecodeConfig, caption
from mami_core.captions.language_model import LanguageModel, LanguageModelConfig
from mami_core.contracts import Beam
from mami_core.learning.fit import FitConfig
from mami_core.learning.targets import Part, SplitConfig, TargetsConfig
from mami_core.learning.training import LearningConfig, Lessons, fit_language_model
from tests.benchmarks.neurons_file import NeuronsFile, read
from tests.benchmarks.side_by_side import Pupil, pupil, train
from tests.benchmarks.ways import SIZES, Way, ways

WEIGHTS, PENALTIES, WINDOWS = (0.0, 0.1, 0.2, 0.4), (0.0, 0.5, 0.7, 1.0), (None, 1.0, 0.5, 0.25)
GRID = tuple(itertools.product(WEIGHTS, PENALTIES, WINDOWS))
"""Points (λ, length penalty, window)."""
COMPOUND = TargetsConfig(join=True, max_words=22)
_MAX_LENGTH = 24
"""Words, the stop word counted."""
_AT_MOST: dict[Part, int] = {"validation": 400, "test": 1500}


@functools.lru_cache(maxsize=1)
def _file(path: str) -> NeuronsFile:
    return read(Path(path))


@functools.lru_cache(maxsize=4)
def _examples(path: str, columns: tuple[str, ...]) -> Any:
    return _file(path).with_columns(columns)


def lessons_of(way: Way, chosen: argparse.Namespace) -> Lessons:
    """What a way's captioners learn from."""
    changes = tuple(sorted(way.learning.items()))
    return _lessons(chosen.data, way.columns, way.join, changes, _fit_config(chosen, join=way.join))


def _fit_config(chosen: argparse.Namespace, *, join: bool) -> FitConfig:
    # A neuron has one compound description, and two or three single ones: as many steps for both.
    times = 2 if join else 1
    return FitConfig(
        batch_size=chosen.batch,
        max_epochs=times * chosen.epochs,
        learning_rate=chosen.learning_rate,
        patience=times * chosen.patience,
    )


@functools.lru_cache(maxsize=64)
def _lessons(path: str, columns: tuple[str, ...], join: bool, changes: tuple, fit: FitConfig) -> Lessons:
    settings: dict[str, Any] = dict(changes)
    split = SplitConfig(test=0.0, test_layers=_file(path).test_layers)
    config = LearningConfig(
        targets=COMPOUND if join else TargetsConfig(),
        split=split,
        fit=fit,
        max_length=_MAX_LENGTH,
        min_count=2,
        **settings,
    )
    return Lessons(_examples(path, columns), config)


def language_model_of(join: bool, chosen: argparse.Namespace) -> tuple[bool, dict[str, torch.Tensor]]:
    """A language model of the training descriptions, single or compound."""
    torch.set_num_threads(1)
    lessons = replace(lessons_of(Way(group="", name="", join=join), chosen), device=chosen.device)
    torch.manual_seed(0)
    model = LanguageModel(_language_config(), lessons.vocabulary).to(chosen.device)
    start = time.monotonic()
    for epoch in fit_language_model(model, lessons):
        print(f"language model, epoch {epoch.number}: {epoch.score:.3f}", file=sys.stderr, flush=True)
        if time.monotonic() - start > chosen.language_seconds:
            break
    return join, {name: tensor.cpu() for name, tensor in epoch.state.best_weights.items()}


def _language_config() -> LanguageModelConfig:
    return LanguageModelConfig(hidden=SIZES["hidden"], embedding=SIZES["embedding"], layers=1)


def learn(
    group: Sequence[tuple[Way, int]], models: dict[bool, dict], chosen: argparse.Namespace, deadline: float
) -> list[dict]:
    """Train some captioners side by side; what each says. Nothing begins after the deadline (`time.monotonic`)."""
    if time.monotonic() > deadline:
        print(f"{group[0][0].name} …: no time left", file=sys.stderr, flush=True)
        return []
    torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = True
    device = torch.device(chosen.device)
    pupils = [pupil(way, seed, lessons_of(way, chosen), device) for way, seed in group]
    start = time.monotonic()
    train(pupils, lambda text: print(f"{group[0][0].name} …, {text}", file=sys.stderr, flush=True))
    trained_s = (time.monotonic() - start) / len(pupils)
    found = []
    for each in pupils:
        model = LanguageModel(_language_config(), each.lessons.vocabulary)
        model.load_state_dict(models[each.way.join])
        found.append(likelihoods(each) | {"seconds": trained_s})
        try:
            found[-1] |= said_by(each, model.to(device).eval(), chosen.beam)
        except RuntimeError as error:  # how likely it thinks the descriptions is a result too
            print(f"{each.way.name}: no captions: {error!r}", file=sys.stderr, flush=True)
    return found


@torch.inference_mode()
def likelihoods(each: Pupil) -> dict:
    """How likely a trained captioner thinks the test descriptions, and how it got there."""
    captioner = each.graduate()
    score, of_neuron = each.log_p("test")
    return {
        "group": each.way.group,
        "name": each.way.name,
        "seed": each.seed,
        "epoch": each.best_epoch,
        "scores": each.scores,
        "parameters": sum(parameter.numel() for parameter in captioner.parameters()),
        "test_log_p": score,
        "log_p": [[row, round(total, 3), count] for row, (total, count) in sorted(of_neuron.items())],
    }


@torch.inference_mode()
def said_by(each: Pupil, model: LanguageModel, beam_size: int) -> dict:
    """A trained captioner's captions at every point of the grid."""
    captioner, examples, found = each.captioner, each.lessons.examples, {}
    for part, limit in _AT_MOST.items():
        rows = each.lessons.parts[part][:limit]
        for tidy in (True, False) if each.way.name in ("bahdanau", "bahdanau + luong + self") else (True,):
            config = DecodeConfig(
                strategy="rerank",
                lm_weight=0.0,
                beam_size=beam_size,
                num_captions=beam_size,
                max_length=_MAX_LENGTH,
                tidy=tidy,
            )
            beams = caption(captioner, model, examples.features[rows], examples.present[rows], config)
            found[part if tidy else f"{part}, untidy"] = {"rows": rows} | _choices(beams)
    return found


def _choices(beams: Sequence[Sequence[Beam]]) -> dict:
    """For every neuron the distinct captions that win anywhere on the grid; for every point which of them does."""
    width = max(map(len, beams))
    numbers = np.full((3, len(beams), width), -np.inf)  # log p(c | E), log p(c), words and the stop word
    for row, of_neuron in enumerate(beams):
        for column, each in enumerate(of_neuron):
            length = min(len(each.caption.split()) + 1, _MAX_LENGTH)
            numbers[:, row, column] = each.log_p_caption, each.log_p_language or 0.0, length
    texts: list[list[str]] = [[] for _ in beams]
    choice: list[list[int]] = []
    for point in GRID:
        winners = [beams[row][best].caption for row, best in enumerate(_best(numbers, *point))]
        for known, text in zip(texts, winners, strict=True):
            if text not in known:
                known.append(text)
        choice.append([known.index(text) for known, text in zip(texts, winners, strict=True)])
    return {"texts": texts, "choice": choice}


def _best(
    numbers: Float[np.ndarray, "3 neurons beams"], weight: float, penalty: float, window: float | None
) -> list[int]:
    """Which beam of each neuron `mami_core.captions.decode` chooses."""
    log_p, log_p_lm, lengths = numbers
    there = np.isfinite(log_p)
    divisors = np.where(there, lengths, 1) ** penalty
    likelihood = log_p / divisors
    scores = np.where(there, log_p - weight * np.where(there, log_p_lm, 0), -np.inf) / divisors
    if window is not None:
        scores[likelihood < likelihood.max(1, keepdims=True) - window] = -np.inf
    return scores.argmax(1).tolist()


def groups(chosen: argparse.Namespace) -> Iterator[list[tuple[Way, int]]]:
    """All captioners, those that matter most first, as many together as asked for."""
    seeds = {group: int(number or chosen.seeds) for group, _, number in (each.partition(":") for each in chosen.only)}
    wanted = [(way, seeds.get(way.group, 0) if seeds else chosen.seeds) for way in ways()]
    every = [
        (way, seed) for seed in range(max(number for _, number in wanted)) for way, number in wanted if seed < number
    ]
    if chosen.first:
        every = every[: chosen.first]
    for start in range(0, len(every), chosen.together):
        yield every[start : start + chosen.together]


def main() -> None:
    """Train, in several processes; write after each group."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--together", type=int, default=1, help="captioners side by side in a process")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=(), help="groups of ways, NAME or NAME:SEEDS; all by default")
    parser.add_argument("--first", type=int, help="only so many captioners")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--patience", type=int, default=3)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--beam", type=int, default=30)
    parser.add_argument("--language-seconds", type=float, default=600)
    parser.add_argument("--start-seconds", type=float, default=1e9, help="no captioners are begun later than this")
    chosen = parser.parse_args()
    start = time.monotonic()
    found: list[dict] = []
    with ProcessPoolExecutor(chosen.processes, mp_context=get_context("spawn")) as pool:
        models = dict(pool.map(language_model_of, (False, True), [chosen] * 2))
        print(f"language models: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
        # CLOCK_MONOTONIC is the machine's: all its processes read the same.
        deadline = start + chosen.start_seconds
        jobs = [pool.submit(learn, group, models, chosen, deadline) for group in groups(chosen)]
        for job in as_completed(jobs):
            if job.exception() is not None:
                print(f"a group failed: {job.exception()!r}", file=sys.stderr, flush=True)
                continue
            found += job.result()
            print(f"{len(found)} captioners after {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
            _write(Path(chosen.out), found)


def _write(path: Path, found: list[dict]) -> None:
    partial = path.with_suffix(".partial")
    partial.write_bytes(gzip.compress(json.dumps({"grid": GRID, "found": found}).encode(), 6))
    partial.replace(path)


if __name__ == "__main__":
    main()
