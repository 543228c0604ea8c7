"""A subject of a million units: a real backbone with a wide dictionary over its last block, computed in blocks."""

import dataclasses
from collections.abc import Iterator

import torch

from mami_core.exemplars.search import SearchConfig, search
from mami_core.images import ImageBatch
from mami_core.subjects import Subject, load_subject, with_slices
from mami_core.subjects.reading.dictionary import Dictionary
from mami_core.subjects.reading.lenses import highest
from tests.benchmarks import measure
from tests.benchmarks.measure import Options, Row, Way, interleaved
from tests.benchmarks.pictures import batches_of, pictures

LATENTS, LAYER, NAME, BATCH = 1 << 20, "_blocks.15", "_blocks.15:sae", 32
SOME = 4096
"""Latents of a range."""


def rows(options: Options) -> Iterator[Row]:
    """One batch of images through the search of a part of the latents, and of a range of all, beside the products."""
    part = round(LATENTS * options.share)
    sliced = with_slices(wide(LATENTS), [f"{NAME}[:{SOME}]"])
    (batch,) = batches_of(pictures(BATCH, sliced.input_size), BATCH)
    at = f"EfficientNet-Lite0's {LAYER} (320 units, 7 × 7), {BATCH} images, k = 15"
    for stage, of, work in (
        ("a range of a dictionary's latents", sliced, f"{SOME:,} of {LATENTS:,} latents over {at}"),
        ("a dictionary's latents", wide(part), f"{part:,} of {LATENTS:,} latents over {at}"),
    ):
        ways = {"ours": Way(lambda of=of: searched(of, batch)), "floor": Way(lambda of=of: products(of, batch))}
        yield Row(stage=stage, work=work, timings=interleaved(ways, options), clock=measure.clock_of(options))


def wide(num_latents: int) -> Subject:
    """EfficientNet-Lite0 with a random dictionary; weights in half precision, as large ones are kept."""
    subject = load_subject("efficientnet_lite0")
    generator = torch.Generator().manual_seed(0)
    encoder = torch.empty(num_latents, 320, dtype=torch.float16)
    for part in encoder.split(1 << 16):
        part.copy_(torch.randn(part.shape, generator=generator))
    latents = Dictionary(layer=LAYER, encoder=encoder, bias=torch.full((num_latents,), -3.0), pre=torch.zeros(320))
    return dataclasses.replace(subject, dictionaries={NAME: latents})


def searched(subject: Subject, batch: ImageBatch) -> int:
    """How many latents are active on some image."""
    found = search(subject, (NAME,), [batch], SearchConfig(k=15, batch_size=BATCH), on_bad=_fail)
    return int(found[NAME].topk.present().any(1).sum())


@torch.inference_mode()
def products(subject: Subject, batch: ImageBatch) -> int:
    """The same count from the latents alone, without histograms and exemplars."""
    with subject.trace([NAME]) as outputs:
        subject.read(batch.pixels[0], outputs.run)
        return int((highest(outputs[NAME]) > 0).any(0).sum())


def _fail(image: int, reason: str) -> None:
    raise AssertionError(f"image {image}: {reason}")


if __name__ == "__main__":
    measure.main(rows)
