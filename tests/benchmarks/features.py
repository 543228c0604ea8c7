"""Features: the encoder once an image and all regions of an image together, or once for every exemplar."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from mami_core.errors import SubjectError
from mami_core.features import Encoder, EncoderConfig, load_encoder
from mami_core.subjects import Subject, Trace, load_subject
from tests.benchmarks import measure
from tests.benchmarks.measure import Options, Row, Way, interleaved
from tests.benchmarks.pictures import pictures, regions_of

IMAGES, NEURONS, K, BATCH = 512, 2000, 15, 32
REGIONS = -(-NEURONS * K // IMAGES)
"""Of an image."""
PLAIN_PAIRS = 48


def rows(options: Options) -> Iterator[Row]:
    """Two lines an encoder: with its pooling, and the lean network without."""
    resnet = EncoderConfig(name="torchvision:resnet18", weights="random:0")
    for shown, config in (("ResNet-18", resnet), ("EfficientNet-Lite2", EncoderConfig())):
        try:
            yield from _rows(shown, config, options)
        except SubjectError as error:  # the package with its weights is not installed
            print(f"<!-- {shown} left out: {error} -->")


def _rows(shown: str, config: EncoderConfig, options: Options) -> Iterator[Row]:
    encoder = load_encoder(config)
    published = load_subject(config.name, weights=config.weights, input_size=encoder.input_size)
    count = max(BATCH, round(IMAGES * options.share) // BATCH * BATCH)
    pixels = pictures(count, encoder.input_size)
    regions = regions_of(BATCH * REGIONS, encoder.region_size)
    ways = {
        "ours": Way(lambda: once_an_image(encoder, pixels, regions)),
        "plain": Way(
            lambda: once_an_exemplar(published, encoder.levels, pixels[:1], regions[:PLAIN_PAIRS]),
            share=PLAIN_PAIRS / (REGIONS * count),
        ),
        "floor": Way(lambda: bare(published, pixels)),
        "lean": Way(lambda: [encoder.pyramid(batch) for batch in pixels.split(BATCH)]),
    }
    found = interleaved(ways, options)
    clock = measure.clock_of(options)
    yield Row(
        stage=f"features, {shown}",
        work=f"{REGIONS * count} of {REGIONS * IMAGES} exemplars over {count} of {IMAGES} images at "
        f"{encoder.input_size} px, {encoder.num_features} numbers each; the plain way on {PLAIN_PAIRS}, scaled",
        timings={name: found[name] for name in ("ours", "plain", "floor")},
        at_most=1.3,
        at_least=20,
        same=compare(encoder, published, pixels[:BATCH], regions[:PLAIN_PAIRS]),
        clock=clock,
    )
    timings = {"ours": found["lean"], "floor": found["floor"]}
    yield Row(stage="— lean encoder alone", work="the same", timings=timings, clock=clock)


def once_an_image(encoder: Encoder, pixels: Tensor, regions: Tensor) -> list[Tensor]:
    """As `pipeline.encode_images` does with a batch whose images have these many regions each."""
    rows = torch.arange(BATCH).repeat_interleave(REGIONS)
    return [encoder.pool_batch(encoder.pyramid(batch), regions, rows).half() for batch in pixels.split(BATCH)]


@torch.inference_mode()
def once_an_exemplar(subject: Subject, levels: tuple[str, ...], picture: Tensor, regions: Tensor) -> Tensor:
    """Every exemplar in a row of its own of the encoder's batch, its region resized to every level's grid."""
    vectors = []
    with Trace(subject.network, levels, before_clamp=False) as outputs:
        for some in regions.split(BATCH):
            subject.network(subject.normalise(picture.expand(len(some), -1, -1, -1)))
            vectors.append(torch.cat([_means(outputs[level], some) for level in levels], dim=1))
    return torch.cat(vectors)


def _means(maps: Tensor, regions: Tensor) -> Tensor:
    weights = F.adaptive_avg_pool2d(regions[:, None].float(), (maps.shape[2], maps.shape[3]))
    weights = weights / weights.sum((2, 3), keepdim=True)
    return (maps * weights).sum((2, 3))


@torch.inference_mode()
def bare(subject: Subject, pixels: Tensor) -> None:
    for batch in pixels.split(BATCH):
        subject.network(subject.normalise(batch))


def compare(encoder: Encoder, subject: Subject, pixels: Tensor, regions: Tensor) -> str:
    ours = encoder.pool([level[0] for level in encoder.pyramid(pixels)], regions)
    plain = once_an_exemplar(subject, encoder.levels, pixels[:1], regions)
    apart = float(((ours - plain).abs() / plain.abs().mean()).max())
    assert apart < 1e-3, apart
    return f"within {apart:.0e} of the mean feature"


if __name__ == "__main__":
    measure.main(rows)
