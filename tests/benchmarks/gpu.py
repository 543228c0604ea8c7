"""One GPU, torch alone: python -m tests.benchmarks.gpu. Nothing is downloaded: networks have random weights.

Every stage and the whole path, over JPEG files, in each precision: what it does a second, beside its floor (the bare
forward passes over pixels that are on the GPU already; the beam's matrix products; the decoder alone) and beside the
plain way on a part of the work. The last column says how far the results are from those in float32.
"""

import argparse
import functools
import json
import os
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import torch
from torch import Tensor

from mami_core import pipeline
from mami_core.captions.captioner import Captioner, CaptionerConfig
from mami_core.captions.decode import DecodeConfig, caption
from mami_core.captions.language_model import LanguageModel
from mami_core.exemplars.search import SearchConfig
from mami_core.exemplars.table import exemplars_table
from mami_core.features import Encoder, EncoderConfig, load_encoder
from mami_core.images import HERE, Decoder, ImageBatch, InThreads, LocalFiles, batches, list_images
from mami_core.images.on_gpu import OnGpu
from mami_core.learning.checkpoint import Trained
from mami_core.pipeline import LabelConfig
from mami_core.subjects import Precision, Subject, lean, load_subject
from mami_core.subjects.precision import products
from tests.benchmarks.decoding import K, networks, plainly
from tests.benchmarks.features import once_an_exemplar
from tests.benchmarks.jpegs import write_jpegs
from tests.benchmarks.plain_exemplars import first_pass
from tests.benchmarks.products import Recorder

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


@dataclass(frozen=True, slots=True)
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


def main() -> None:
    """Print the table; with OUT in the environment, write the lines there too."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda", help="cpu tries the program out; its figures mean nothing")
    parser.add_argument("--small", action="store_true", help="minutes become seconds")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("stages", nargs="*", default=list(STAGES))
    chosen = parser.parse_args()
    device = torch.device(chosen.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("No GPU here. --device cpu --small tries the program out.")
    torch.backends.cudnn.benchmark = True
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}\n\n{HEADER}", flush=True)
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        setting = _setting(device, Path(folder), small=chosen.small, num_images=chosen.images)
        for stage in chosen.stages:
            try:
                for line in STAGES[stage](setting):
                    lines.append(asdict(line))
                    print(line, flush=True)
            except Exception:  # the other stages are worth having
                print(f"<!-- {stage} failed -->\n{traceback.format_exc()}", flush=True)
            if out := os.environ.get("OUT"):
                (Path(out) / "bench.json").write_text(json.dumps({"device": name, "lines": lines}, indent=1))


def _setting(device: torch.device, folder: Path, *, small: bool, num_images: int) -> Setting:
    count = 8 if small else num_images
    write_jpegs(folder / "photographs", count)
    table = list_images(str(folder / "photographs"), LocalFiles())
    decoder = OnGpu(str(device), num_threads=8) if device.type == "cuda" else HERE
    names = ("torchvision:resnet18",) * 2 if small else ("torchvision:resnet152", "torchvision:resnet101")
    sizes = (4, 16, 5) if small else (256, 3904, 50)
    return Setting(device, *names, sizes[0], count, sizes[1], sizes[2], table, decoder)


# --- images ----------------------------------------------------------------------------------------------------------


def images(setting: Setting) -> Iterator[Line]:
    """Files to batches of pixels on the device."""
    few = setting.table.slice(0, min(setting.num_images, 4096))

    def decoded(decoder: Decoder) -> Callable[[], None]:
        def run() -> None:
            for batch in _batches(setting, few, (224,), decoder):
                batch.pixels[0].to(setting.device, non_blocking=True)

        return run

    seconds, peak = timed(decoded(setting.decoder), setting.device, rounds=2)
    floor = float("nan")
    if setting.device.type == "cuda":
        files = [torch.frombuffer(bytearray(Path(path).read_bytes()), dtype=torch.uint8) for path in _paths(few)]
        lists = [files[first : first + 128] for first in range(0, len(files), 128)]
        alone, _ = timed(
            lambda: [torch.ops.image.decode_jpegs_cuda(some, 3, setting.device) for some in lists], setting.device
        )
        floor = len(files) / alone
    threads = os.cpu_count() or 1
    plain, _ = timed(decoded(InThreads(min(4, threads))), setting.device, rounds=1)
    work = f"{len(few)} JPEGs of 500 × 375 to 224 px; floor: the decoder alone; plain: 4 CPU threads"
    yield Line(
        stage="images", precision="—", work=work, rate=len(few) / seconds, floor=floor, plain=len(few) / plain,
        peak_gib=peak,
    )  # fmt: skip


def _paths(table: pa.Table) -> list[str]:
    return table["path"].to_pylist()


def _batches(setting: Setting, table: pa.Table, sizes: Sequence[int], decoder: Decoder) -> Iterator[ImageBatch]:
    return batches(
        table, LocalFiles(), sizes=sizes, crop=0.875, batch_size=setting.batch_size, decoder=decoder,
        pinned=setting.device.type == "cuda", on_error=_fail,
    )  # fmt: skip


def _fail(image: int, key: str, reason: str) -> None:
    raise AssertionError(f"image {image} ({key}): {reason}")


# --- exemplar search and features ------------------------------------------------------------------------------------


def search(setting: Setting) -> Iterator[Line]:
    """The first pass over JPEGs."""
    reference: pa.Table | None = None
    for precision in PRECISIONS:
        subject = _subject(setting, precision)
        few = setting.table.slice(0, min(setting.num_images, 10 * setting.batch_size))
        found: list[pa.Table] = []

        def ours(subject: Subject = subject, few: pa.Table = few, found: list[pa.Table] = found) -> None:
            found[:] = [_searched(setting, subject, few)]

        seconds, peak = timed(ours, setting.device, rounds=1)
        floor = _bare(setting, [subject])
        reference = reference or found[0]
        plain = _plain_search(setting, subject) if precision == "float32" else float("nan")
        work = f"{setting.subject}, {len(subject.default_layers)} layers, {few.num_rows} JPEGs"
        yield Line(
            stage="exemplar search", precision=precision, work=work, rate=few.num_rows / seconds, floor=floor,
            plain=plain, peak_gib=peak, same=_share_kept(found[0], reference),
        )  # fmt: skip


def _subject(setting: Setting, precision: Precision) -> Subject:
    published = load_subject(setting.subject, weights="random:0")
    return lean(published, published.default_layers, precision=precision).to(setting.device)


def _encoder(setting: Setting, precision: Precision) -> Encoder:
    config = EncoderConfig(name=setting.encoder, weights="random:0")
    return load_encoder(config, precision=precision).to(setting.device)


def _searched(setting: Setting, subject: Subject, table: pa.Table) -> pa.Table:
    """Both what is found and its table, as `pipeline.label` makes it."""
    config = SearchConfig(k=K, batch_size=setting.batch_size)
    states, _ = pipeline.search_images(
        subject, subject.default_layers, table, LocalFiles(), config, decoder=setting.decoder
    )
    return pa.concat_tables(
        exemplars_table(subject.name, layer, state, table["key"]) for layer, state in states.items()
    )


def _bare(setting: Setting, subjects: Sequence[Subject]) -> float:
    """Images a second of the networks' forward passes alone, over pixels that are there already."""
    pixels = torch.randint(256, (setting.batch_size, 224, 224, 3), dtype=torch.uint8, device=setting.device)
    pixels = pixels.permute(0, 3, 1, 2)

    @torch.inference_mode()
    def run() -> None:
        for _ in range(8):
            for subject in subjects:
                subject.read(pixels, subject.network)

    return 8 * setting.batch_size / timed(run, setting.device, rounds=1)[0]


def _plain_search(setting: Setting, subject: Subject) -> float:
    """The plain way makes two passes a layer; one of them, on one batch, scaled."""
    pixels = torch.randint(256, (32, 3, 224, 224), dtype=torch.uint8).to(setting.device)
    batch = [ImageBatch((pixels,), torch.arange(32), 32)]
    layer = subject.default_layers[-1]

    def run() -> None:
        with products(subject.precision):
            first_pass(subject, layer, batch, K, 0.99, exact=True)

    return 32 / (len(subject.default_layers) * timed(run, setting.device, rounds=1)[0])


def _share_kept(found: pa.Table, reference: pa.Table) -> str:
    pairs = zip(found["images"].to_pylist(), reference["images"].to_pylist(), strict=True)
    kept = [len(set(one) & set(other)) / len(other) for one, other in pairs if other]
    return f"{sum(kept) / len(kept):.1%} of exemplars kept"


def features(setting: Setting) -> Iterator[Line]:
    """The second pass over JPEGs: the subject's maps again, the encoder, and all regions of every image."""
    exemplars: pa.Table | None = None
    reference: Tensor | None = None
    for precision in PRECISIONS:
        subject, encoder = _subject(setting, precision), _encoder(setting, precision)
        few = setting.table.slice(0, min(setting.num_images, 10 * setting.batch_size))
        exemplars = exemplars or _searched(setting, subject, few)
        shown = len({image for images in exemplars["images"].to_pylist() for image in images})
        tables: list[pa.Table] = []

        def ours(
            subject: Subject = subject,
            encoder: Encoder = encoder,
            few: pa.Table = few,
            exemplars: pa.Table = exemplars,
            tables: list[pa.Table] = tables,
        ) -> None:
            tables[:] = [
                pipeline.encode_images(
                    subject, encoder, exemplars, few, LocalFiles(), batch_size=setting.batch_size,
                    decoder=setting.decoder,
                )
            ]  # fmt: skip

        seconds, peak = timed(ours, setting.device, rounds=1)
        floor = _bare(setting, [subject, encoder._subject])
        vectors = _vectors(tables[0], encoder.num_features)
        reference = vectors if reference is None else reference
        plain = _plain_features(setting, encoder) / (exemplars_a := tables[0].num_rows / shown)
        cosine = torch.nn.functional.cosine_similarity(vectors.float(), reference.float()).mean()
        work = f"{setting.subject} and {setting.encoder}, {shown} images, {exemplars_a:.0f} exemplars an image"
        yield Line(
            stage="features", precision=precision, work=work, rate=shown / seconds, floor=floor, plain=plain,
            peak_gib=peak, same=f"cosine {float(cosine):.6f}",
        )  # fmt: skip


def _vectors(table: pa.Table, width: int) -> Tensor:
    data = b"".join(table["vector"].to_pylist()[:20_000])
    return torch.frombuffer(bytearray(data), dtype=torch.float16).view(-1, width)


def _plain_features(setting: Setting, encoder: Encoder) -> float:
    """Exemplars a second, each in a row of its own."""
    subject = encoder._subject
    picture = torch.randint(256, (1, 3, 224, 224), dtype=torch.uint8).to(setting.device)
    regions = torch.rand(96, encoder.region_size, encoder.region_size, device=setting.device) > 0.9

    def run() -> None:
        with products(subject.precision):
            once_an_exemplar(subject, encoder.levels, picture, regions)

    return len(regions) / timed(run, setting.device, rounds=1)[0]


# --- captions --------------------------------------------------------------------------------------------------------


def captions(setting: Setting) -> Iterator[Line]:
    """Captions by mutual information; the floor is the run's matrix products alone."""
    for num_features in (1024, 3904):
        captioner, language_model = networks(CaptionerConfig(num_features=num_features))
        captioner, language_model = captioner.to(setting.device), language_model.to(setting.device)
        generator = torch.Generator().manual_seed(0)
        vectors = torch.randn(setting.num_neurons, K, num_features, generator=generator).half()
        present = torch.ones(setting.num_neurons, K, dtype=torch.bool)
        reference: list[str] = []
        for precision in PRECISIONS:
            config = DecodeConfig(beam_size=setting.beam_size, precision=precision)
            found: list[str] = []

            def ours(
                captioner: Captioner = captioner,
                config: DecodeConfig = config,
                vectors: Tensor = vectors,
                present: Tensor = present,
                found: list[str] = found,
                language_model: LanguageModel = language_model,
            ) -> None:
                beams = caption(captioner, language_model, vectors, present, config)
                found[:] = [each[0].caption for each in beams]

            seconds, peak = timed(ours, setting.device, rounds=1)
            some = min(setting.num_neurons, 512)
            with torch.inference_mode(), Recorder() as floor:
                caption(captioner, language_model, vectors[:some], present[:some], config)
            with products(precision):
                alone, _ = timed(floor.replay, setting.device, rounds=1)
            plain = float("nan")
            if precision == "float32":
                one_neuron = functools.partial(plainly, captioner, language_model, vectors[0].to(setting.device))
                plain = 1 / timed(one_neuron, setting.device, rounds=1)[0]
            reference = reference or list(found)
            equal = sum(one == other for one, other in zip(found, reference, strict=True)) / len(found)
            work = f"{setting.num_neurons} neurons, {num_features} features, vocabulary 5,000, beam {setting.beam_size}"
            yield Line(
                stage="captions", precision=precision, work=work, rate=len(found) / seconds, floor=some / alone,
                plain=plain, peak_gib=peak, same=f"{equal:.1%} of captions equal",
            )  # fmt: skip


# --- all of it -------------------------------------------------------------------------------------------------------


def whole(setting: Setting) -> Iterator[Line]:
    """`pipeline.label`: JPEGs in, labels out, networks loaded already but for the encoder."""
    reference: pa.Table | None = None
    for precision in ("tf32", "bfloat16"):
        encoder = _encoder(setting, "float32")
        captioner, language_model = networks(CaptionerConfig(num_features=encoder.num_features))
        trained = Trained(
            captioner=captioner, language_model=language_model, encoder=encoder.config, encoder_id=encoder.id
        )
        subject = load_subject(setting.subject, weights="random:0").to(setting.device)
        config = LabelConfig(
            search=SearchConfig(k=K, batch_size=setting.batch_size),
            decode=DecodeConfig(beam_size=setting.beam_size, precision="tf32"),
            precision=precision,
            decode_on="gpu" if setting.device.type == "cuda" else "cpu",
        )
        found: list[pa.Table] = []

        def ours(
            subject: Subject = subject, trained: Trained = trained, config: LabelConfig = config,
            found: list[pa.Table] = found,
        ) -> None:  # fmt: skip
            found[:] = [pipeline.label(subject, (), setting.table, LocalFiles(), trained, config).labels]

        seconds, peak = timed(ours, setting.device, rounds=1)
        reference = reference or found[0]
        pairs = zip(found[0]["caption"].to_pylist(), reference["caption"].to_pylist(), strict=True)
        equal = sum(one == other for one, other in pairs) / found[0].num_rows
        yield Line(
            stage="the whole path", precision=precision,
            work=f"{found[0].num_rows} neurons of {setting.subject} over {setting.num_images} JPEGs; {seconds:.1f} s",
            rate=found[0].num_rows / seconds, peak_gib=peak, same=f"{equal:.1%} of captions as in tf32",
        )  # fmt: skip


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


STAGES: dict[str, Callable[[Setting], Iterator[Line]]] = {
    "images": images,
    "search": search,
    "features": features,
    "captions": captions,
    "whole": whole,
}

if __name__ == "__main__":
    main()
