"""What the GPU's benchmarks have in common: what is measured, on what, and how it is shown."""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import torch

from mami_core import pipeline
from mami_core.exemplars.search import SearchConfig
from mami_core.exemplars.table import exemplars_table
from mami_core.features import Encoder, EncoderConfig, load_encoder
from mami_core.features.looks import SIDE
from mami_core.images import HERE, Decoder, LocalFiles, list_images
from mami_core.images.on_gpu import OnGpu
from mami_core.subjects import Precision, Subject, lean, load_subject
from tests.benchmarks.decoding import K
from tests.benchmarks.jpegs import write_jpegs

PRECISIONS: tuple[Precision, ...] = ("float32", "tf32", "bfloat16")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One row of the table."""

    stage: str
    precision: str
    work: str
    rate: float
    """Images or neurons a second."""
    floor: float = float("nan")
    plain: float = float("nan")
    peak_gib: float = float("nan")
    same: str = "—"

    def __str__(self) -> str:
        def ratio(number: float, shown: str) -> str:
            return "—" if number != number else format(number, shown)

        numbers = [f"{self.rate:,.0f}", ratio(self.floor, ",.0f"), ratio(self.rate / self.floor, ".0%")]
        numbers += [ratio(self.plain, ",.1f"), ratio(self.rate / self.plain, ",.0f"), ratio(self.peak_gib, ".1f")]
        return "| " + " | ".join([self.stage, self.precision, self.work, *numbers, self.same]) + " |"


HEADER = """\
| stage | precision | work | a second | floor | of the floor | plain way | × plain | memory, GiB | result |
| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |"""


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """What is measured, and on what."""

    device: torch.device
    subject: str
    encoder: str
    batch_size: int
    num_images: int
    num_neurons: int
    """Of the captions' own lines."""
    beam_size: int
    table: pa.Table
    decoder: Decoder


def setting_of(device: torch.device, folder: Path, *, small: bool, num_images: int) -> Setting:
    count = 8 if small else num_images
    write_jpegs(folder / "photographs", count)
    table = list_images(str(folder / "photographs"), LocalFiles())
    decoder = OnGpu(str(device), num_threads=8) if device.type == "cuda" else HERE
    names = ("torchvision:resnet18",) * 2 if small else ("torchvision:resnet152", "torchvision:resnet101")
    sizes = (4, 16, 5) if small else (256, 3904, 50)
    return Setting(device, *names, sizes[0], count, sizes[1], sizes[2], table, decoder)


@functools.cache
def subject_in(setting: Setting, precision: Precision) -> Subject:
    published = load_subject(setting.subject, weights="random:0")
    return lean(published, published.default_layers, precision=precision).to(setting.device)


@functools.cache
def encoder_in(setting: Setting, precision: Precision, *, telling: bool = False) -> Encoder:
    """MILAN's; `telling` also what pixels, forms and places tell, as the captioner that comes with the project asks."""
    size = SIDE if telling else None
    config = EncoderConfig(
        name=setting.encoder, weights="random:0", input_size=size, looks=telling, forms=telling, place=telling
    )
    return load_encoder(config, precision=precision).to(setting.device)


def searched(setting: Setting, subject: Subject, table: pa.Table) -> pa.Table:
    """Both what is found and its table, as `pipeline.label` makes it."""
    config = SearchConfig(k=K, batch_size=setting.batch_size)
    states, _ = pipeline.search_images(
        subject, subject.default_layers, table, LocalFiles(), config, decoder=setting.decoder
    )
    return pa.concat_tables(
        exemplars_table(subject.name, layer, state, table["key"]) for layer, state in states.items()
    )


def timed(function: Callable[[], object], device: torch.device, rounds: int = 3) -> tuple[float, float]:
    """Seconds of the fastest of some rounds after one that is not counted, and the peak of memory in GiB."""
    seconds = []
    for _ in range(rounds + 1):
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        seconds.append(once(function, device))
    peak = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else float("nan")
    return min(seconds[1:]), peak


def once(function: Callable[[], object], device: torch.device) -> float:
    """Seconds until the device has done it."""
    _wait(device)
    start = time.perf_counter()
    function()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
