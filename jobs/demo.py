"""Labels a real network on real photographs, on this machine, with nothing downloaded: what `make demo` runs.

python -m jobs.demo

EfficientNet-Lite0 is labelled, by the captioner that comes with the project, on the photographs that scikit-image and
scikit-learn ship. It is the ordinary job; running the demo again does only what is missing.
"""

import sys
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pandas as pd

from jobs import label, report
from jobs.engine import runtime
from jobs.engine.foretold import Step, planned
from jobs.label import LabelJob
from jobs.labelling import photographs
from jobs.report import ReportJob
from jobs.storage.places import settle
from mami_core.labels import labels_at

LAYERS = ("_bn0", "_blocks.4._bn1", "_blocks.10._bn1[0:320]", "_blocks.15._bn1[0:320]", "_bn1[0:640]")
"""Units of EfficientNet-Lite0's stem, three stages and head: 1,552 neurons, all of which a ReLU6 follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """Label EfficientNet-Lite0 on real photographs, with the captioner that comes with the project."""

    ADDRESSES: ClassVar = ("folder",)

    folder: str = "demo"
    """Where everything goes: photographs and labels."""
    layers: tuple[str, ...] = LAYERS
    """Which layers of EfficientNet-Lite0 to label."""
    num_shown: int = 10
    """Labels to print at the end."""

    def __post_init__(self) -> None:
        settle(self)


def run(demo: Demo) -> None:
    """The three steps, and ten labels."""
    start, folder = time.monotonic(), Path(demo.folder).absolute()
    _say("1/3  Photographs: scikit-image's and scikit-learn's, cropped at several scales")
    count = photographs.write_photographs(folder / "photographs")
    print(f"     {count} crops in {folder / 'photographs'}")
    _say("2/3  The labels of EfficientNet-Lite0, a network that the captioner has never seen")
    label.run(labels_of_lite0(folder, demo.layers))
    _show(folder / "labels", demo.num_shown)
    _say("3/3  A report to look at: search, a gallery, a page for each neuron; it opens from disk")
    report.run(ReportJob(runs=(str(folder / "labels"),)))
    print(f"{time.monotonic() - start:,.0f} s for the demo.")


def plan(demo: Demo) -> str:
    """What `run` would do."""
    folder = Path(demo.folder)
    photographs_step = Step(name="photographs", items=654, bytes_written=25e6, seconds=10.0)
    first = planned("Cropping scikit-image's and scikit-learn's photographs", [photographs_step], into=str(folder))
    if not any((folder / "photographs").glob("*.jpg")):
        return f"{first}\nThen their labels and a report: three minutes in all. Run it to see."
    return f"{first}\n\n{label.plan(labels_of_lite0(folder, demo.layers))}"


def labels_of_lite0(folder: Path, layers: tuple[str, ...]) -> LabelJob:
    """EfficientNet-Lite0 on the photographs. A beam of 20, not 50: two CPU cores decode it more than twice as fast."""
    return LabelJob(
        subject=("efficientnet_lite0",),
        images=str(folder / "photographs"),
        output=str(folder / "labels"),
        layers=layers,
        beam_size=20,
        neurons_per_item=256,
    )


def _say(text: str) -> None:
    print(f"\n{text}", flush=True)


def _show(run_folder: Path, count: int) -> None:
    """Some labels, as many from each layer, taken evenly from its units."""
    table = labels_at(str(run_folder)).to_pandas()
    alive = table[~table["dead"]]
    layers = [units for _, units in alive.groupby("layer")]
    each = -(-count // len(layers))
    shown = pd.concat(units.iloc[:: max(1, len(units) // each)].head(each) for units in layers).head(count)
    print(f"{'neuron':<18}{'score':>8}{'log p(c|E)':>12}{'log p(c)':>10}{'support':>9}{'trust':>8}  caption")
    for row in shown.to_dict("records"):
        name, caption = f"{row['layer']}/{row['unit']}", textwrap.shorten(row["caption"], 90)
        scores = f"{row['score']:8.2f}{row['log_p_caption']:12.2f}{row['log_p_language']:10.2f}"
        runtime.show(f"{name:<18}{scores}{row['support']:9.2f}{row['trust']:8.2f}  {caption}")
    print(
        f"\nSupport (the share of its exemplars of which a caption is true, as the captioner reckons): "
        f"{table['support'].median():.2f} in the middle; {(table['support'] >= 0.7).sum():,} captions have .7 or more."
    )
    print(
        f"Trust (how well a caption foretells what drives its neuron): {table['trust'].mean():.3f} on average, "
        f"{table['trust_shuffled'].mean():.3f} with another neuron's caption."
    )
    print(
        f"\n{len(table):,} neurons in {table['layer'].nunique()} layers, {alive['caption'].nunique():,} different "
        f'captions.\n\n  pandas.read_parquet("{run_folder}/labels")\n'
    )


if __name__ == "__main__":
    sys.exit(runtime.main(Demo, run, plan=plan))
