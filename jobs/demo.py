"""Labels a real network on real photographs, on this machine, with nothing downloaded: what `make demo` runs.

python -m jobs.demo

The captioner is trained first, on neurons that the project draws and describes itself, since none ships with it. Then
EfficientNet-Lite0 is labelled on the photographs that scikit-image and scikit-learn ship. Both steps are the ordinary
jobs; running the demo again does only what is missing.
"""

import sys
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from jobs import label, train
from jobs.engine import runtime
from jobs.label import LabelJob
from jobs.labelling import photographs
from jobs.train import TrainJob

LAYERS = ("_bn0", "_blocks.4", "_blocks.10", "_blocks.15", "_bn1")
"""EfficientNet-Lite0's stem, three stages and head: 1,784 neurons."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """Train a captioner on drawn neurons, then label EfficientNet-Lite0 on real photographs."""

    folder: str = "demo"
    """Where everything goes: photographs, captioner, labels."""
    layers: tuple[str, ...] = LAYERS
    """Which layers of EfficientNet-Lite0 to label."""
    num_shown: int = 10
    """Labels to print at the end."""


def run(demo: Demo) -> None:
    """The three steps, and ten labels."""
    start, folder = time.monotonic(), Path(demo.folder).absolute()
    _say("1/3  Photographs: scikit-image's and scikit-learn's, cropped at several scales")
    count = photographs.write_photographs(folder / "photographs")
    print(f"     {count} crops in {folder / 'photographs'}")
    with runtime.connect():  # one Ray for both jobs
        _say("2/3  A captioner, trained on neurons that the project draws and describes itself")
        print("     It knows colours, textures, patterns, shapes and places. It has never seen a photograph's label.")
        train.run(small_captioner(str(folder / "captioner")))
        _say("3/3  The labels of EfficientNet-Lite0")
        label.run(labels_of_lite0(folder, demo.layers))
    _show(folder / "labels", demo.num_shown)
    print(f"{time.monotonic() - start:,.0f} s for the demo.")


def small_captioner(output: str) -> TrainJob:
    """A captioner that two CPU cores train in about four minutes."""
    return TrainJob(
        output=output,
        num_generated=2400,
        hidden=256,
        embedding=96,
        attention_size=128,
        language_layers=1,
        max_epochs=24,
        max_length=21,
    )


def labels_of_lite0(folder: Path, layers: tuple[str, ...]) -> LabelJob:
    """EfficientNet-Lite0 on the photographs. A beam of 10 instead of 50: two CPU cores decode it five times faster."""
    return LabelJob(
        subject=("efficientnet_lite0",),
        images=str(folder / "photographs"),
        captioner=str(folder / "captioner"),
        output=str(folder / "labels"),
        layers=layers,
        beam_size=10,
        neurons_per_item=256,
    )


def _say(text: str) -> None:
    print(f"\n{text}", flush=True)


def _show(run_folder: Path, count: int) -> None:
    """Some labels, as many from each layer, taken evenly from its units."""
    table = pd.read_parquet(run_folder / "labels")
    alive = table[~table["dead"]].sort_values(["layer", "unit"])
    layers = [units for _, units in alive.groupby("layer")]
    each = -(-count // len(layers))
    shown = pd.concat(units.iloc[:: max(1, len(units) // each)].head(each) for units in layers).head(count)
    print(f"{'neuron':<18}{'score':>8}{'log p(c|E)':>12}{'log p(c)':>10}  caption")
    for row in shown.to_dict("records"):
        name, caption = f"{row['layer']}/{row['unit']}", textwrap.shorten(row["caption"], 90)
        scores = f"{row['score']:8.2f}{row['log_p_caption']:12.2f}{row['log_p_language']:10.2f}"
        runtime.show(f"{name:<18}{scores}  {caption}")
    print(
        f"\n{len(table):,} neurons in {table['layer'].nunique()} layers, {alive['caption'].nunique():,} different "
        f'captions.\n\n  pandas.read_parquet("{run_folder}/labels")\n'
    )


if __name__ == "__main__":
    sys.exit(runtime.main(Demo, run))
