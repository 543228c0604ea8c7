"""Work that nobody reads is not done: forward passes end early, and a batch's features take few operations."""

from collections.abc import Callable
from unittest import mock

import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn
from torch.profiler import record_function

from mami_core import contracts, pipeline
from mami_core.errors import SubjectError
from mami_core.exemplars import quantile, region
from mami_core.exemplars.search import Search, SearchConfig, search
from mami_core.exemplars.table import exemplars_table
from mami_core.features import EncoderConfig, load_encoder, pooling
from mami_core.features.looks import look_maps
from mami_core.images import ImageBatch, LocalFiles
from mami_core.subjects import Precision, Trace, lean, load_subject, subject_of
from tests.core.counting import operations


class Counted(nn.Module):
    """Four layers that count how often they run."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(4)))
        self.runs = [0] * 4
        for number, layer in enumerate(self.layers):
            layer.register_forward_hook(lambda _m, _i, _o, number=number: self._count(number))

    def _count(self, number: int) -> None:
        self.runs[number] += 1

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Stubborn(Counted):
    """Handles whatever is raised inside it."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            try:
                x = layer(x)
            except BaseException:
                x = x * 2
        return x


class Moody(Counted):
    """Gives something else every time."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.rand(())


def runs_of(network: Counted, layers: list[str], count: int) -> list[int]:
    """How often each layer runs in some passes, and that they give what a whole pass gives."""
    x = torch.randn(2, 3, 5, 5)
    with torch.inference_mode(), Trace(network, layers) as outputs:
        network(x)
        whole = dict(outputs)
        outputs.run(x)
        network.runs = [0] * 4
        for _ in range(count):
            outputs.run(x)
        assert all(outputs[layer].equal(whole[layer]) for layer in layers)
    return network.runs


@pytest.mark.parametrize("last", range(4))
def test_a_pass_ends_with_the_last_layer_that_is_read(last: int) -> None:
    assert runs_of(Counted(), ["layers.0", f"layers.{last}"], 3) == [3 * (number <= last) for number in range(4)]


def test_a_network_that_handles_what_is_raised_gives_the_same() -> None:
    runs_of(Stubborn(), ["layers.0", "layers.1"], 2)


def test_a_network_that_gives_something_else_each_time_is_refused() -> None:
    network = nn.Sequential(Moody(), nn.ReLU(), nn.Tanh())
    with Trace(network, ["0"]) as outputs, pytest.raises(SubjectError, match="something else each time"):
        outputs.run(torch.randn(2, 3, 5, 5))


def test_exemplars_of_early_layers_take_no_later_ones() -> None:
    network = Counted()
    subject = subject_of(network, name="counted", input_size=8, default_layers=("layers.1",))
    batch = ImageBatch((torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8),), torch.arange(4), 4)
    config = SearchConfig(k=2, batch_size=4)
    search(subject, ["layers.1"], [batch], config, on_bad=refuse)
    network.runs = [0] * 4
    search(subject, ["layers.1"], [batch] * 3, config, on_bad=refuse)
    assert network.runs == [3, 3, 0, 0]


def refuse(image: int, reason: str) -> None:
    raise AssertionError(f"image {image}: {reason}")


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_precision_moves_activations_by_its_rounding(precision: Precision) -> None:
    subject = load_subject("torchvision:resnet18", weights="random:0", input_size=64)
    layers = ["layer1", "layer3"]
    pixels = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    exact, rounded = lean(subject, layers), lean(subject, layers, precision=precision)
    with (
        torch.inference_mode(),
        Trace(exact.network, layers) as expected,
        Trace(rounded.network, layers) as found,
    ):
        exact.read(pixels, expected.run)
        rounded.read(pixels, found.run)
    for layer in layers:
        apart = float((found[layer].float() - expected[layer]).norm() / expected[layer].norm())
        assert (1e-4 < apart < 3e-2) if precision == "bfloat16" else apart == 0
    assert torch.backends.cuda.matmul.fp32_precision != "ieee", "what the process chose stands again"


def networks_apart(run: Callable[..., object]) -> Callable[..., object]:
    """A module's call, recorded as what is not counted."""

    def recorded(*arguments: object) -> object:
        with record_function("network"):
            return run(*arguments)

    return recorded


@pytest.mark.parametrize("num_images", [8, 32])
def test_a_batchs_search_takes_few_operations_however_many_images_and_units(num_images: int) -> None:
    subject = load_subject("torchvision:resnet18", weights="random:0", input_size=64)
    running = Search(subject, subject.default_layers, SearchConfig(k=5), on_bad=refuse)
    pixels = torch.randint(256, (num_images, 3, 64, 64), dtype=torch.uint8)
    batches = [ImageBatch((pixels,), torch.arange(num_images) + first, num_images) for first in (0, num_images)]
    running.update(batches[0])
    with (
        mock.patch.object(quantile, "_BLOCK", 1 << 30),  # as on an accelerator, which has no cache to stay in
        mock.patch.object(nn.Module, "__call__", networks_apart(nn.Module.__call__)),
    ):
        count = operations(lambda: running.update(batches[1]), apart_from=("network",))
    assert len(subject.default_layers) == 5
    assert count < 300


@pytest.mark.parametrize("num_images", [8, 32])
def test_a_batchs_features_take_few_operations_however_many_images_and_neurons(num_images: int) -> None:
    subject = lean(load_subject("torchvision:resnet18", weights="random:0", input_size=64), ["layer1", "layer2", "fc"])
    encoder = load_encoder(EncoderConfig(name="torchvision:resnet18", weights="random:1", input_size=64))
    pixels = torch.randint(256, (num_images, 3, 64, 64), dtype=torch.uint8)
    batch = ImageBatch((pixels, pixels), torch.arange(num_images), num_images)
    states = search(subject, ["layer1", "layer2", "fc"], [batch], SearchConfig(k=5), on_bad=refuse)
    rows = [
        {"image": n, "key": f"{n}", "path": "", "offset": None, "size": None, "row": None} for n in range(num_images)
    ]
    images = contracts.from_rows(rows, contracts.IMAGES)
    exemplars = pa.concat_tables(exemplars_table("s", layer, state, images["key"]) for layer, state in states.items())
    exemplars = exemplars.take(list(range(0, exemplars.num_rows, 32 * 5 // num_images)))  # thirty an image or more

    with (
        mock.patch.object(pipeline, "batches_for", return_value=iter([batch])),
        mock.patch.object(region, "_BLOCK", 1 << 20),  # as on an accelerator, which has no cache to stay in
        mock.patch.object(pooling, "_on_cpu", return_value=False),
        mock.patch.object(nn.Module, "__call__", networks_apart(nn.Module.__call__)),
    ):
        count = operations(
            lambda: pipeline.encode_images(subject, encoder, exemplars, images, LocalFiles(), batch_size=num_images),
            apart_from=("network",),
        )
    assert count < 400


def test_what_pixels_tell_takes_as_many_operations_for_any_number_of_pictures() -> None:
    counts = []
    for num_images in (1, 8):
        pixels = torch.randint(256, (num_images, 3, 256, 256), dtype=torch.uint8)
        look_maps(pixels)  # what is made once a process
        counts.append(operations(lambda pixels=pixels: look_maps(pixels)))
    assert counts[0] == counts[1] < 1200
