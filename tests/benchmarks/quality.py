"""What the captions are worth: the tables of docs/captions.md.

python -m tests.benchmarks.quality                              draws neurons, trains, scores (see --help for the sizes)
python -m tests.benchmarks.quality --data NEURONS --found FOUND scores what quality_train wrote elsewhere

Every way is trained on the same neurons with several seeds; a seed decides first weights, the order of the targets and
dropout. λ, length penalty and window are chosen on validation neurons, way by way, by ROUGE-L.
"""

import argparse
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from mami_core.features import EncoderConfig, load_encoder
from mami_core.learning.annotated_features import encode_annotated, examples_of
from mami_core.learning.generated import UNSEEN, GeneratedConfig, generate
from mami_core.metrics.bertscore import BertScore, BertScoreConfig, load_bertscore
from tests.benchmarks.neurons_file import NeuronsFile, read, write
from tests.benchmarks.quality_scores import Taught, difference, mean_words, read_found
from tests.benchmarks.quality_train import PENALTIES, WEIGHTS, WINDOWS

_WITH_BERTSCORE = ("subsets", "compound", "fusions")


def tables(
    taught: Sequence[Taught], neurons: NeuronsFile, *, long: float, bertscore: BertScore | None
) -> Iterator[str]:
    """Everything, in Markdown."""
    groups = _groups(taught, neurons, long)
    yield "Neurons: " + ", ".join(f"{name} {len(rows)}" for name, rows in groups.items()) + "\n"
    for group in dict.fromkeys(one.group for one in taught):
        ways = [one for one in taught if one.group == group]
        yield f"\n## {group}\n"
        yield from _ways(ways, groups, bertscore if group in _WITH_BERTSCORE else None)
        yield from _differences(taught, ways, groups)
    for name in ("bahdanau", "bahdanau + luong + self"):
        for one in taught:
            if one.name == name and one.group in ("subsets", "compound"):
                yield from _sweep(one)


def _groups(taught: Sequence[Taught], neurons: NeuronsFile, long: float) -> dict[str, list[int]]:
    rows = taught[0].runs[0]["test"]["rows"]
    descriptions, names = neurons.examples.descriptions, neurons.examples.neurons
    is_long = {row: mean_words(descriptions[row]) >= long for row in rows}
    groups = {
        "all": list(rows),
        "short": [row for row in rows if not is_long[row]],
        "long": [row for row in rows if is_long[row]],
    }
    layers = dict.fromkeys(names[row].layer for row in rows)
    return groups | {layer: [row for row in rows if names[row].layer == layer] for layer in layers if len(layers) > 1}


def _ways(ways: Sequence[Taught], groups: dict[str, list[int]], bertscore: BertScore | None) -> Iterator[str]:
    shown = list(groups)
    yield (
        "| way | seeds | weights | λ, penalty, window | epochs | "
        + " | ".join(f"{name}: log p / BLEU / ROUGE-L" + (" / BERTScore" if bertscore else "") for name in shown)
        + " |"
    )
    yield "| --- | ---: | ---: | --- | ---: |" + " ---: |" * len(shown)
    for one in ways:
        cells = [_scores(one, groups[name], bertscore) for name in shown]
        weight, penalty, window = one.point
        epochs = statistics.fmean(run["epoch"] for run in one.runs)
        size = one.runs[0]["parameters"] / 1e6
        point = f"{weight:g}, {penalty:g}, {'none' if window is None else format(window, 'g')}"
        yield f"| {one.name} | {len(one.runs)} | {size:.2f} M | {point} | {epochs:.0f} | " + " | ".join(cells) + " |"


def _scores(one: Taught, rows: Sequence[int], bertscore: BertScore | None) -> str:
    totals, counts = one.log_p(rows)
    cells = [
        spread((totals.sum(1) / counts.sum()).tolist(), 3),
        spread(one.bleu(rows), 1),
        spread(one.rouge(rows).mean(1).tolist(), 3),
    ]
    if bertscore is not None:
        cells.append(spread(one.bertscore(rows, bertscore), 3))
    return " / ".join(cells)


def _differences(taught: Sequence[Taught], ways: Sequence[Taught], groups: dict[str, list[int]]) -> Iterator[str]:
    """Each way against Bahdanau's attention alone, or against the way that it changes."""
    yield "\n| way | against | " + " | ".join(f"{name}: log p a word, ROUGE-L" for name in ("all", "long")) + " |"
    yield "| --- | --- | --- | --- |"
    for one in ways:
        base = "compound" if one.group == "compound" else "subsets"
        start = "bahdanau + luong + self" if one.name.startswith("three, ") else "bahdanau"
        other = next((way for way in taught if (way.group, way.name) == (base, start)), None)
        if other is None or other is one:
            continue
        cells = []
        for name in ("all", "long"):
            found = difference(one, other, groups[name]) if groups[name] else {}
            cells.append(", ".join(f"{gain:+.3f} [{low:+.3f}, {high:+.3f}]" for gain, low, high in found.values()))
        yield f"| {one.name} | {start} | " + " | ".join(cells) + " |"


def _sweep(one: Taught) -> Iterator[str]:
    """ROUGE-L and BLEU of validation neurons over the grid; without the rules of tidy captions too, where known."""
    for part in ("validation", "validation, untidy"):
        if part not in one.runs[0]:
            continue
        yield f"\n### {one.name}, {one.group}, {part}: ROUGE-L / BLEU\n"
        yield "| λ | window | " + " | ".join(f"penalty {penalty:g}" for penalty in PENALTIES) + " |"
        yield "| ---: | ---: |" + " ---: |" * len(PENALTIES)
        for weight in WEIGHTS:
            for window in WINDOWS if weight else (None,):
                found = (one.on_validation((weight, penalty, window), part) for penalty in PENALTIES)
                cells = " | ".join(f"{rouge:.3f} / {bleu:.1f}" for rouge, bleu in found)
                yield f"| {weight:g} | {'none' if window is None else format(window, 'g')} | {cells} |"


def spread(values: Sequence[float], places: int) -> str:
    """Mean, and standard deviation where there are several values."""
    mean = f"{statistics.fmean(values):.{places}f}"
    return mean if len(values) < 2 else f"{mean} ± {np.std(values, ddof=1):.{places}f}"


def draw(path: Path, num_neurons: int) -> None:
    """Neurons that the project draws, described and encoded, in a file."""
    annotated = generate(GeneratedConfig(num_neurons=num_neurons))
    encoder = load_encoder(EncoderConfig(place=True))
    features = encode_annotated(annotated, encoder, range(annotated.num_images))
    levels = sum(encoder.level_channels)
    columns = {"levels": (0, levels), "place": (levels, encoder.num_features)}
    examples = examples_of(annotated, features)
    write(path, NeuronsFile(examples=examples, columns=columns, test_layers=(UNSEEN,)))


def main() -> None:
    """Draw, train, score."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a neurons file; by default neurons are drawn")
    parser.add_argument("--found", type=Path, help="what quality_train wrote of it; by default it is called")
    parser.add_argument("--neurons", type=int, default=1200)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=["subsets"], help="groups of ways; none for all (hours)")
    parser.add_argument("--long", type=float, default=9, help="words on average from which descriptions are long")
    parser.add_argument("--no-bertscore", action="store_true")
    chosen = parser.parse_args()
    with TemporaryDirectory() as folder:
        data, found = chosen.data or Path(folder) / "neurons.safetensors", chosen.found
        if chosen.data is None:
            draw(data, chosen.neurons)
        if found is None:
            found = Path(folder) / "found.json.gz"
            options = ["--data", data, "--out", found, "--seeds", chosen.seeds, "--batch", 64, "--learning-rate", 1e-3]
            command = [sys.executable, "-m", "tests.benchmarks.quality_train", *map(str, options)]
            subprocess.run([*command, "--only", *chosen.only], check=True)
        neurons = read(data)
        bertscore = None if chosen.no_bertscore else load_bertscore(BertScoreConfig())
        for line in tables(read_found(found, neurons), neurons, long=chosen.long, bertscore=bertscore):
            print(line, flush=True)


if __name__ == "__main__":
    main()
