"""What grows with the work: time a neuron and an image, which should not; memory, which settings should bound.

Each line puts the larger work in the place of "ours" and the smaller one, scaled up, in that of "floor": a ratio of 1
is perfectly flat.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from mami_core import contracts, pipeline
from mami_core.captions.captioner import Captioner, CaptionerConfig
from mami_core.captions.decode import DecodeConfig
from mami_core.captions.language_model import LanguageModel, LanguageModelConfig
from mami_core.captions.vocabulary import Vocabulary
from mami_core.exemplars.pairs import pairs_of
from mami_core.exemplars.quantile import Histogram
from mami_core.exemplars.search import SearchConfig
from mami_core.exemplars.states import LayerState
from mami_core.exemplars.topk import TopK
from mami_core.features import EncoderConfig
from mami_core.images import LocalFiles
from mami_core.learning.checkpoint import Trained
from mami_core.pipeline import LabelConfig
from mami_core.regroup import features_table
from mami_core.subjects import subject_of
from tests.benchmarks import measure
from tests.benchmarks.measure import Options, Row, Timing, Way, interleaved
from tests.benchmarks.pictures import AtHand, images_table, pictures
from tests.benchmarks.search import NO_ENCODER

K, FEATURES = 15, 64
CONFIG = LabelConfig(search=SearchConfig(k=K, batch_size=32), decode=DecodeConfig(beam_size=2, max_length=4))
UNITS = 1_000_000


def rows(options: Options) -> Iterator[Row]:
    """Neurons, images, and the state of a million units."""
    few_options = Options(options.threads, min(options.rounds, 3), options.share)
    yield _neurons(few_options)
    yield from _images(few_options)
    yield from _million(few_options)


# --- neurons -----------------------------------------------------------------------------------------------------


def _neurons(options: Options) -> Row:
    small, large = (1_000, 50_000) if options.share >= 0.25 else (1_000, 10_000)
    trained = _tiny_captioner()
    work = {count: _neurons_and_features(count) for count in (small, large)}

    def run(count: int) -> None:
        # As a run does it: shards of at most 4,096 units, each with the features of its own.
        exemplars, features = work[count]
        for first in range(0, count, 1000):
            part = exemplars.slice(first, 1000)
            pipeline.caption_neurons(trained, part, features.slice(first * K, 1000 * K), CONFIG, run="")

    ways = {"ours": Way(lambda: run(large)), "floor": Way(lambda: run(small), share=small / large)}
    return Row(
        stage=f"growth: {small:,} → {large:,} neurons",
        work="captions and labels of shards of 1,000 units, a small captioner; the floor is the smaller work, scaled",
        timings=interleaved(ways, options),
        at_most=1.2,
        clock=measure.clock_of(options),
    )


def _tiny_captioner() -> Trained:
    vocabulary = Vocabulary(tuple(f"word{number}" for number in range(100)))
    torch.manual_seed(0)
    config = CaptionerConfig(num_features=FEATURES, embedding=16, hidden=32, attention_size=32)
    language_model = LanguageModel(LanguageModelConfig(embedding=16, hidden=32, layers=1), vocabulary)
    captioner = Captioner(config, vocabulary).eval()
    return Trained(captioner=captioner, language_model=language_model.eval(), encoder=EncoderConfig(), encoder_id="")


def _neurons_and_features(count: int) -> tuple[pa.Table, pa.Table]:
    """Exemplars of random images, and their features."""
    generator = np.random.default_rng(0)
    images = generator.integers(4000, size=count * K)
    columns = {
        "subject": pa.repeat("s", count),
        "layer": pa.repeat("layer", count),
        "unit": pa.array(range(count), pa.int32()),
        "images": _lists(images),
        "keys": _lists(pa.array(images).cast(pa.string())),
        "activations": _lists(np.ones(count * K, np.float32)),
        "threshold": pa.array(np.ones(count, np.float32)),
        "active_fraction": pa.array(np.ones(count)),
    }
    schema = contracts.EXEMPLARS
    exemplars = pa.table([columns[name].cast(schema.field(name).type) for name in schema.names], schema=schema)
    vectors = torch.from_numpy(generator.standard_normal((count * K, FEATURES), np.float32)).half()
    exponents = torch.zeros(count * K, dtype=torch.int8)
    regions = torch.zeros(count * K, contracts.REGION_SIDE**2 // 8, dtype=torch.uint8)
    pairs = pairs_of(exemplars)
    return exemplars, features_table(pairs.take(pairs.by_neuron()), vectors, exponents, regions, FEATURES)


def _lists(values: np.ndarray | pa.Array) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(range(0, len(values) + 1, K), pa.int32()), pa.array(values))


# --- images ------------------------------------------------------------------------------------------------------


def _images(options: Options) -> Iterator[Row]:
    small, large = 500, 4_000
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 32, 3, 2), nn.ReLU(), nn.Conv2d(32, 64, 3, 2), nn.ReLU())
    subject = subject_of(network, name="s", input_size=32, default_layers=("1", "3"))

    decoder = AtHand(pictures(large, 32))

    def run(count: int, *, second: bool) -> None:
        images, files = images_table(count), LocalFiles()
        if second:
            pipeline.encode_images(subject, NO_ENCODER, exemplars[count], images, files, batch_size=32, decoder=decoder)
        else:
            pipeline.search_images(subject, ("1", "3"), images, files, CONFIG.search, decoder=decoder)

    # As many exemplars an image in both.
    exemplars = {count: _exemplars_over(count, units=800 * count // large) for count in (small, large)}
    for shown, second in (("first", False), ("second", True)):
        ways = {
            "ours": Way(lambda second=second: run(large, second=second)),
            "floor": Way(lambda second=second: run(small, second=second), share=small / large),
        }
        yield Row(
            stage=f"growth: {small:,} → {large:,} images, {shown} pass",
            work="a small network at 32 px; the floor is the smaller work, scaled",
            timings=interleaved(ways, options),
            at_most=1.2,
            clock=measure.clock_of(options),
        )


def _exemplars_over(count: int, *, units: int) -> pa.Table:
    generator = np.random.default_rng(0)
    rows = [
        {
            "subject": "s",
            "layer": "1" if unit % 3 == 0 else "3",
            "unit": unit % 32,
            "images": (chosen := generator.choice(count, K, replace=False)).tolist(),
            "keys": [str(image) for image in chosen],
            "activations": [1.0] * K,
            "threshold": 0.0,
            "active_fraction": 1.0,
        }
        for unit in range(units)
    ]
    return contracts.from_rows(sorted(rows, key=lambda row: row["layer"]), contracts.EXEMPLARS)


# --- a million units -----------------------------------------------------------------------------------------------


def _million(options: Options) -> Iterator[Row]:
    state, other = (_filled(seed) for seed in (0, 1))
    bytes_a_unit = (state.topk.keys.nbytes + state.histogram.counts.nbytes) / UNITS
    assert bytes_a_unit <= 1300, bytes_a_unit
    values, images = torch.rand(32, UNITS), torch.arange(100_000, 100_032)

    def update() -> None:
        state.topk.update(values, images)
        state.histogram.update(values)

    found = interleaved({"update": Way(update), "merge": Way(lambda: state.merge(other))}, options)
    yield _rate("update with 32 vectors", found["update"], f"{bytes_a_unit:.0f} bytes a unit (≤ 1,300)")
    yield _rate("merge of two states", found["merge"], "—")


def _rate(what: str, timing: Timing, same: str) -> Row:
    rate = UNITS / np.median(timing.cpu_s) / 1e6
    work = f"synthetic activations: {rate:.2f} million units a second"
    return Row(stage=f"1,000,000 units: {what}", work=work, timings={"ours": timing}, same=same)


def _filled(seed: int) -> LayerState:
    """The state after so many images that every unit has its exemplars."""
    generator = torch.Generator().manual_seed(seed)
    topk = TopK.empty(UNITS, K)
    histogram = Histogram.empty(UNITS)
    values: Tensor = torch.rand(32, UNITS, generator=generator)
    topk.update(values, torch.arange(32) + 32 * seed)
    histogram.update(values)
    return LayerState(topk, histogram)


if __name__ == "__main__":
    measure.main(rows)
