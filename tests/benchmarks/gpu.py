"""One GPU, torch alone: python -m tests.benchmarks.gpu. Nothing is downloaded: the networks have random weights.

For each stage, in float32 and with bfloat16 products: what it does a second, also as a share of its floor (the bare
forward passes; for decoding the run's matrix products alone); the floor's arithmetic in our time as a share of what the
chip does in one large matrix product; how far bfloat16's results are from float32's.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mami_core.captions.captioner import CaptionerConfig
from mami_core.captions.decode import DecodeConfig, Precision, caption
from mami_core.exemplars.region import regions
from mami_core.exemplars.search import Search, SearchConfig
from mami_core.features import EncoderConfig, load_encoder
from mami_core.images import ImageBatch
from mami_core.subjects import Subject, Trace, lean, load_subject
from tests.benchmarks.decoding import K, networks
from tests.benchmarks.pictures import pictures
from tests.benchmarks.products import Recorder

PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
HEADER = """\
| stage | precision | work | a second | floor, a second | of the floor | of the chip | memory, GiB | against float32 |
| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | --- |"""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda", help="cpu tries the program out; its figures mean nothing")
    parser.add_argument("--small", action="store_true", help="minutes become seconds")
    chosen = parser.parse_args()
    device = torch.device(chosen.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("No GPU here. --device cpu --small tries the program out.")
    torch.backends.cuda.matmul.allow_tf32 = False  # float32 means float32 in this table
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    print(f"{name}, torch {torch.__version__}\n\n{HEADER}", flush=True)
    for stage in (search, features, decoding):
        for line in stage(device, small=chosen.small):
            print(line, flush=True)


# --- exemplar search -----------------------------------------------------------------------------------------------


def search(device: torch.device, *, small: bool) -> Iterator[str]:
    """The first pass: forward, top-k and histogram."""
    name, batch_size, count = ("resnet18", 4, 2) if small else ("resnet152", 256, 16)
    published = load_subject(f"torchvision:{name}", weights="random:0")
    layers = published.default_layers
    subject = lean(published, layers).to(device)
    batches = list(_batches(count, batch_size, subject.input_size))
    reference: dict[str, Tensor] = {}
    for precision in PRECISIONS:
        running: list[Search] = []

        def ours(precision: Precision = precision, running: list[Search] = running) -> None:
            running[:] = [Search(subject, layers, SearchConfig(batch_size=batch_size), on_bad=_fail)]
            with _autocast(device, precision):
                for _ in running[0].over(batches):
                    pass

        def bare(precision: Precision = precision) -> None:
            with _autocast(device, precision):
                _forward(subject, batches, device)

        seconds, peak = timed(ours, device)
        floor, _ = timed(bare, device)
        found = {layer: state.topk.activations() for layer, state in running[0].states.items()}
        reference = reference or found
        images = count * batch_size
        work = f"{name}, {len(layers)} layers, {images} images at {subject.input_size} px"
        chip = share_of_chip(bare, seconds, device, precision)
        apart = _apart(found, reference)
        yield _line("exemplar search", precision, work, images / seconds, images / floor, chip, peak, apart)


def _batches(count: int, batch_size: int, size: int) -> Iterator[ImageBatch]:
    """In memory that the GPU can read by itself, so that copies and computation overlap."""
    pixels = pictures(batch_size, size)
    for number in range(count):
        of_batch = pixels.roll(number, dims=2).contiguous(memory_format=torch.channels_last)
        of_batch = of_batch.pin_memory() if torch.cuda.is_available() else of_batch
        first = number * batch_size
        yield ImageBatch((of_batch,), torch.arange(first, first + batch_size), batch_size)


@torch.inference_mode()
def _forward(subject: Subject, batches: list[ImageBatch], device: torch.device) -> None:
    for batch in batches:
        subject.network(subject.normalise(batch.pixels[0].to(device, non_blocking=True)))


def _fail(image: int, reason: str) -> None:
    raise AssertionError(f"image {image}: {reason}")


# --- features --------------------------------------------------------------------------------------------------------


def features(device: torch.device, *, small: bool) -> Iterator[str]:
    """The second pass: the subject's maps again, the encoder, and all regions of every image."""
    name, batch_size, count, pairs = ("resnet18", 2, 1, 8) if small else ("resnet152", 64, 8, 64)
    subject = load_subject(f"torchvision:{name}", weights="random:0")
    layer = subject.default_layers[-1]
    subject = lean(subject, (layer,)).to(device)
    encoder = load_encoder(
        EncoderConfig(name="torchvision:resnet18" if small else "torchvision:resnet101", weights="random:0")
    )
    bare_encoder = load_subject(encoder.config.name, weights="random:0").to(device)
    encoder.to(device)
    batches = list(_batches(count, batch_size, subject.input_size))
    units, thresholds = torch.arange(pairs, device=device), torch.zeros(pairs, device=device)
    reference: dict[str, Tensor] = {}
    for precision in PRECISIONS:
        vectors: list[Tensor] = []

        @torch.inference_mode()
        def ours(precision: Precision = precision, vectors: list[Tensor] = vectors) -> None:
            vectors.clear()
            with _autocast(device, precision), Trace(subject.network, (layer,)) as maps:
                for batch in batches:
                    pixels = batch.pixels[0].to(device, non_blocking=True)
                    subject.network(subject.normalise(pixels))
                    pyramid = encoder.pyramid(pixels)
                    with torch.autocast(device.type, enabled=False):  # regions and means stay float32
                        for row in range(batch_size):
                            grids = maps[layer][row, units].float()
                            found = regions(grids, thresholds, encoder.region_size)
                            vectors.append(encoder.pool([level[row] for level in pyramid], found))

        def bare(precision: Precision = precision) -> None:
            with _autocast(device, precision):
                _forward(subject, batches, device)
                _forward(bare_encoder, batches, device)

        seconds, peak = timed(ours, device)
        floor, _ = timed(bare, device)
        reference = reference or {"vectors": torch.cat(vectors)}
        apart = _apart({"vectors": torch.cat(vectors)}, reference)
        images = count * batch_size
        work = f"{name} and {encoder.config.name}, {images} images, {pairs} exemplars an image"
        chip = share_of_chip(bare, seconds, device, precision)
        yield _line("features", precision, work, images / seconds, images / floor, chip, peak, apart)


# --- decoding --------------------------------------------------------------------------------------------------------


def decoding(device: torch.device, *, small: bool) -> Iterator[str]:
    """Captions by mutual information, beam 50; the floor is the run's matrix products alone."""
    count, beam = (16, 5) if small else (2048, 50)
    captioner, language_model = networks(CaptionerConfig(num_features=1024))
    captioner, language_model = captioner.to(device), language_model.to(device)
    vectors, present = torch.randn(count, K, 1024).half(), torch.ones(count, K, dtype=torch.bool)
    reference: list[str] = []
    for precision in PRECISIONS:
        config = DecodeConfig(beam_size=beam, precision=precision)
        captions: list[str] = []

        def ours(config: DecodeConfig = config, captions: list[str] = captions) -> None:
            found = caption(captioner, language_model, vectors, present, config)
            captions[:] = [beams[0].caption for beams in found]

        with torch.inference_mode(), Recorder() as products:
            ours()
        seconds, peak = timed(ours, device)
        floor, _ = timed(products.replay, device)
        reference = reference or list(captions)
        equal = sum(one == other for one, other in zip(captions, reference, strict=True)) / count
        work = f"{count} neurons, 1,024 features, vocabulary 5,000, beam {beam}, 15 words"
        chip = share_of_chip(products.replay, seconds, device, precision)
        equals = f"{equal:.1%} of captions equal"
        yield _line("decoding", precision, work, count / seconds, count / floor, chip, peak, equals)


# --- measuring -------------------------------------------------------------------------------------------------------


def timed(function: Callable[[], object], device: torch.device, rounds: int = 3) -> tuple[float, float]:
    """Seconds of the fastest of some rounds after one that is not counted, and the peak of memory in GiB."""
    seconds = []
    for _ in range(rounds + 1):
        _wait(device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        start = time.perf_counter()
        function()
        _wait(device)
        seconds.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else float("nan")
    return min(seconds[1:]), peak


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _autocast(device: torch.device, precision: Precision) -> AbstractContextManager:
    """What bfloat16 means for a network: its convolutions and products; the statistics stay float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bfloat16" else nullcontext()


def _apart(found: dict[str, Tensor], reference: dict[str, Tensor]) -> str:
    apart = [(found[name] - reference[name]).float().norm() / reference[name].float().norm() for name in reference]
    return f"within {float(torch.stack(apart).max()):.0e}"


def share_of_chip(floor: Callable[[], None], seconds: float, device: torch.device, precision: Precision) -> float:
    """The arithmetic of the floor, done in our time, over what one large matrix product reaches."""
    with FlopCounterMode(display=False) as counter:
        floor()
    side = 8192 if device.type == "cuda" else 512
    matrix = torch.randn(side, side, device=device, dtype=getattr(torch, precision))
    product, _ = timed(lambda: [matrix @ matrix for _ in range(8)], device)
    return counter.get_total_flops() / seconds / (8 * 2 * side**3 / product)


def _line(
    stage: str, precision: str, work: str, rate: float, floor: float, chip: float, peak: float, against: str
) -> str:
    shares = f"{rate / floor:.0%} | {chip:.1%}"
    return f"| {stage} | {precision} | {work} | {rate:,.0f} | {floor:,.0f} | {shares} | {peak:.1f} | {against} |"


if __name__ == "__main__":
    main()
