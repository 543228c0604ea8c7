"""The GPU's benchmarks of what sees images: decoding, exemplar search, features."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import torch
from torch import Tensor

from mami_core import pipeline
from mami_core.features import Encoder
from mami_core.images import Decoder, ImageBatch, InThreads, LocalFiles, batches
from mami_core.subjects import Subject
from mami_core.subjects.precision import products
from tests.benchmarks.decoding import K
from tests.benchmarks.features import once_an_exemplar
from tests.benchmarks.gpu_setting import (
    PRECISIONS,
    Line,
    Setting,
    encoder_in,
    searched,
    subject_in,
    timed,
)
from tests.benchmarks.plain_exemplars import first_pass


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


def search(setting: Setting) -> Iterator[Line]:
    """The first pass over JPEGs."""
    reference: pa.Table | None = None
    for precision in PRECISIONS:
        subject = subject_in(setting, precision)
        few = setting.table.slice(0, min(setting.num_images, 10 * setting.batch_size))
        found: list[pa.Table] = []

        def ours(subject: Subject = subject, few: pa.Table = few, found: list[pa.Table] = found) -> None:
            found[:] = [searched(setting, subject, few)]

        seconds, peak = timed(ours, setting.device, rounds=1)
        floor = _bare(setting, [subject])
        reference = reference or found[0]
        plain = _plain_search(setting, subject) if precision == "float32" else float("nan")
        work = f"{setting.subject}, {len(subject.default_layers)} layers, {few.num_rows} JPEGs"
        yield Line(
            stage="exemplar search", precision=precision, work=work, rate=few.num_rows / seconds, floor=floor,
            plain=plain, peak_gib=peak, same=_share_kept(found[0], reference),
        )  # fmt: skip


def _bare(setting: Setting, subjects: Sequence[Subject]) -> float:
    """Images a second of the networks' forward passes alone, over pixels that are there already."""

    def pictures(side: int) -> Tensor:
        shape = (setting.batch_size, side, side, 3)
        return torch.randint(256, shape, dtype=torch.uint8, device=setting.device).permute(0, 3, 1, 2)

    given = [(subject, pictures(subject.input_size)) for subject in subjects]

    @torch.inference_mode()
    def run() -> None:
        for _ in range(8):
            for subject, pixels in given:
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
    few = setting.table.slice(0, min(setting.num_images, 10 * setting.batch_size))
    exemplars = searched(setting, subject_in(setting, "float32"), few)
    shown = len({image for images in exemplars["images"].to_pylist() for image in images})
    references: dict[bool, Tensor] = {}
    for precision, telling in (*((precision, False) for precision in PRECISIONS), ("float32", True), ("tf32", True)):
        subject, encoder = subject_in(setting, precision), encoder_in(setting, precision, telling=telling)
        tables: list[pa.Table] = []

        def ours(subject: Subject = subject, encoder: Encoder = encoder, tables: list[pa.Table] = tables) -> None:
            tables[:] = [
                pipeline.encode_images(
                    subject, encoder, exemplars, few, LocalFiles(), batch_size=setting.batch_size,
                    decoder=setting.decoder,
                )
            ]  # fmt: skip

        seconds, peak = timed(ours, setting.device, rounds=1)
        floor = _bare(setting, [subject, encoder._subject])
        vectors = _vectors(tables[0], encoder.num_features)
        reference = references.setdefault(telling, vectors)
        plain, an_image = float("nan"), tables[0].num_rows / shown
        if not telling:
            plain = _plain_features(setting, encoder) / an_image
        cosine = torch.nn.functional.cosine_similarity(vectors.float(), reference.float()).mean()
        more = ", looks, forms and places" if telling else ""
        work = f"{setting.subject} and {setting.encoder}{more}, {shown} images, {an_image:.0f} exemplars an image"
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
