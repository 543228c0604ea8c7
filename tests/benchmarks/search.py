"""Exemplar search: both passes of the subject, the second one without the encoder."""

import copy
import dataclasses
from collections.abc import Callable, Iterator
from typing import cast

import pyarrow as pa
import torch
from torch import Tensor

from mami_core import pipeline
from mami_core.exemplars.region import regions
from mami_core.exemplars.search import Search, SearchConfig, search
from mami_core.exemplars.table import exemplars_table
from mami_core.features import Encoder, EncoderConfig
from mami_core.images import ImageBatch, LocalFiles
from mami_core.sizes import Size
from mami_core.subjects import Subject, Trace, lean, load_subject
from tests.benchmarks import measure
from tests.benchmarks.measure import Options, Row, Way, interleaved
from tests.benchmarks.pictures import AtHand, batches_of, images_table, pictures
from tests.benchmarks.plain_exemplars import PlainExemplars, activations, first_pass, second_pass

IMAGES, BATCH, GRID = 512, 32, 112
CONFIG = SearchConfig(k=15, quantile=0.99, batch_size=BATCH)


class NoEncoder:
    """Stands where the encoder is: takes the regions and does nothing with them."""

    config, size, region_size, num_features = EncoderConfig(), Size(1, 1), GRID, 1

    def pyramid(self, pixels: Tensor) -> list[Tensor]:
        return [pixels]

    def pool_batch(self, pyramid: list[Tensor], regions: Tensor, rows: Tensor) -> Tensor:
        return torch.zeros(len(regions), 1)


NO_ENCODER = cast("Encoder", NoEncoder())


def rows(options: Options) -> Iterator[Row]:
    """One line for both passes, one for the statistics alone, one for what a lean network saves."""
    count = max(BATCH, round(IMAGES * options.share) // BATCH * BATCH)
    published = load_subject("torchvision:resnet18", weights="random:0")
    layers = published.default_layers
    subject = lean(published, layers)
    by_default = as_torch_lays_it_out(published)
    pixels = pictures(count, published.input_size)
    stream = batches_of(pixels, BATCH)
    every, few = IMAGES // count, IMAGES // BATCH

    ways = {
        "ours": Way(lambda: both_passes(subject, layers, pixels, every)),
        "plain": Way(lambda: plainly(by_default, layers, stream[:1], few, exact=False), share=BATCH / count),
        "exact": Way(lambda: plainly(by_default, layers, stream[:1], few, exact=True), share=BATCH / count),
        "floor": Way(lambda: bare(published, stream)),
        "statistics": Way(statistics_alone(subject, layers, stream[0]), share=BATCH / count),
        "lean": Way(lambda: bare(subject, stream)),
        "first": Way(lambda: search(subject, layers, stream, CONFIG, on_bad=_fail)),
    }
    found = interleaved(ways, options)
    clock, floor = measure.clock_of(options), found["floor"]
    work = f"ResNet-18, {len(layers)} layers, {count} of {IMAGES} images at 224 px, k = 15"
    main = {name: found[name] for name in ("ours", "plain", "floor")}
    yield Row(
        stage="exemplar search, both passes",
        work=f"{work}; the plain way, with a quantile sketch, on {BATCH} images, scaled",
        timings=main,
        at_most=2.6,
        at_least=8,
        same=compare(published, layers, stream[:1], few),
        clock=clock,
    )
    yield Row(
        stage="— against exact quantiles",
        work="the same; the plain way with all activations of a layer in memory",
        timings={"ours": found["ours"], "plain": found["exact"], "floor": floor},
        at_most=2.6,
        at_least=8,
        clock=clock,
    )
    parts = {
        "statistics alone": ("statistics", 0.3),
        "first pass": ("first", None),
        "lean forward pass": ("lean", None),
    }
    for name, (way, target) in parts.items():
        timings = {"ours": found[way], "floor": floor}
        yield Row(stage=f"— {name}", work="the same", timings=timings, at_most=target, clock=clock)


def as_torch_lays_it_out(subject: Subject) -> Subject:
    """Channels first, as a network is that nobody prepared; its inputs follow by themselves."""
    network = copy.deepcopy(subject.network).to(memory_format=torch.contiguous_format)
    network.register_forward_pre_hook(lambda _module, inputs: (inputs[0].contiguous(),))
    return dataclasses.replace(subject, network=network)


def _fail(image: int, reason: str) -> None:
    raise AssertionError(f"image {image}: {reason}")


@torch.inference_mode()
def bare(subject: Subject, stream: list[ImageBatch]) -> None:
    for batch in stream:
        subject.network(subject.normalise(batch.pixels[0]))


def both_passes(subject: Subject, layers: tuple[str, ...], pixels: Tensor, every: int) -> None:
    """As `pipeline.label` does, but for the decoding of images and the encoder.

    With a part of the images, the second pass looks at a part of the units: an image then has as many exemplars to give
    as in the full work.
    """
    images, files, at_hand = images_table(len(pixels)), LocalFiles(), AtHand(pixels)
    states, _ = pipeline.search_images(subject, layers, images, files, CONFIG, decoder=at_hand)
    tables = [exemplars_table("s", layer, state, images["key"]) for layer, state in states.items()]
    exemplars = pa.concat_tables(tables)
    exemplars = exemplars.take(list(range(0, exemplars.num_rows, every)))
    pipeline.encode_images(subject, NO_ENCODER, exemplars, images, files, batch_size=BATCH, decoder=at_hand)


def statistics_alone(subject: Subject, layers: tuple[str, ...], batch: ImageBatch) -> Callable[[], None]:
    """An update with maps that are there already."""
    with torch.inference_mode(), Trace(subject.network, layers) as outputs:
        subject.network(subject.normalise(batch.pixels[0]))
        maps = dict(outputs)
    running = Search(subject, layers, CONFIG, on_bad=_fail)
    # Each run is the same batch again: later rounds find no stronger image, as happens late in a long search.
    running._activations = lambda _pixels: maps  # pyrefly: ignore
    return lambda: running.update(batch)


def plainly(
    subject: Subject, layers: tuple[str, ...], stream: list[ImageBatch], every: int, *, exact: bool
) -> dict[str, tuple[PlainExemplars, dict]]:
    found = {}
    for layer in layers:
        winners = first_pass(subject, layer, stream, CONFIG.k, CONFIG.quantile, exact=exact)
        units = range(0, len(winners.thresholds), every)
        found[layer] = winners, second_pass(subject, layer, stream, winners, units, GRID)
    return found


def compare(subject: Subject, layers: tuple[str, ...], stream: list[ImageBatch], every: int) -> str:
    """Ours on the network as published, against the plain way on the same network and images."""
    ours = search(subject, layers, stream, CONFIG, on_bad=_fail)
    worst = 0.0
    for layer, (plain, plain_regions) in plainly(subject, layers, stream, every, exact=True).items():
        topk = ours[layer].topk
        active = topk.present()
        assert torch.equal(topk.images()[active], plain.images[active]), layer
        assert torch.equal(topk.activations()[active], plain.activations[active]), layer
        thresholds = ours[layer].histogram.quantile(CONFIG.quantile)
        apart = ((thresholds - plain.thresholds).abs() / plain.thresholds.clamp(min=1e-6))[plain.thresholds > 0]
        worst = max(worst, float(apart.max()))
        compare_regions(activations(subject, layer, stream[0].pixels[0]), plain.thresholds, plain_regions)
    assert worst < 0.125, worst
    return f"exemplars to the bit; thresholds within {worst:.1%}; regions within 0.1 % of the grid"


def compare_regions(maps: Tensor, thresholds: Tensor, plain: dict[tuple[int, int], Tensor]) -> None:
    """For the same thresholds; the two enlarge with sums of another order, so that single cells may fall elsewhere."""
    units, images = (torch.tensor(each) for each in zip(*plain, strict=True))
    ours = regions(maps[images, units], thresholds[units], GRID)
    apart = (ours != torch.stack(list(plain.values()))).float().mean((1, 2)).max()
    assert apart <= 1e-3, apart


if __name__ == "__main__":
    measure.main(rows)
