"""What networks of every kind give is read right, or refused by name before any work."""

import copy
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mami_core.errors import SubjectError
from mami_core.exemplars import regions
from mami_core.subjects import (
    LayerInfo,
    Subject,
    Survey,
    Trace,
    lean,
    left_out,
    list_layers,
    load_subject,
    match_layers,
    remembering,
    subject_of,
)
from mami_core.subjects.finite import require_finite
from tests.core.subjects import networks
from tests.core.subjects.networks import OpenAttention, Transformer

SIZE = 64


def made(network: nn.Module, input_size: int | tuple[int, int] = SIZE) -> Subject:
    return subject_of(network, name="it", input_size=input_size)


def names(subject: Subject) -> set[str]:
    return {info.name for info in list_layers(subject)}


# --- tokens ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("special", "at_the_end", "batch_first", "shape"),
    [
        (0, False, True, (64, 64)),
        (1, False, True, (40, 72)),
        (5, False, False, (64, 64)),
        (2, True, True, (96, 32)),
        (1, True, False, (64, 64)),
    ],
)
def test_tokens_are_read_where_their_patches_lie(
    special: int, at_the_end: bool, batch_first: bool, shape: tuple[int, int]
) -> None:
    network = Transformer(shape, special=special, at_the_end=at_the_end, batch_first=batch_first)
    subject = made(network, shape)
    assert subject.default_layers == ("blocks.0", "blocks.1")
    infos = {info.name: info for info in list_layers(subject)}
    grid = (shape[0] // 8, shape[1] // 8)
    assert infos["blocks.1"].map_size == grid
    assert infos["blocks.1"].num_special == special
    assert infos["blocks.1.mlp.0"].num_units == 128
    seen: list[Tensor] = []
    handle = network.blocks[0].register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    with torch.inference_mode(), Trace(network, ["blocks.0"]) as outputs:
        network(torch.randn(3, 3, *shape))
        handle.remove()
        tokens = seen[-1] if batch_first else seen[-1].transpose(0, 1)
        first = 0 if at_the_end else special
        expected = tokens[:, first : first + grid[0] * grid[1]].unflatten(1, grid).permute(0, 3, 1, 2)
        assert outputs["blocks.0"].equal(expected)


@pytest.mark.parametrize("special", [0, 4])
def test_no_row_of_q_and_no_token_by_token_matrix_is_a_unit(special: int) -> None:
    subject = made(OpenAttention(special=special))
    assert subject.default_layers == ("blocks.0", "blocks.1")
    inside = {f"blocks.{block}.{name}" for block in (0, 1) for name in ("softmax", "q_seen", "k_norm")}
    assert not names(subject) & inside
    assert any("6 × its output" in line or "holds tokens" in line for line in left_out(subject))
    with pytest.raises(SubjectError, match=r"'blocks\.0\.q_seen'.*holds tokens by heads"):
        match_layers(subject, ["blocks.0.q_seen"])
    with pytest.raises(SubjectError, match=r"and 1 more that fit '\*\.softmax' of it cannot be read"):
        match_layers(subject, ["*.softmax"])


def test_a_mixers_hidden_tokens_are_no_units() -> None:
    subject = made(networks.Mixer())
    assert "across" not in names(subject)
    with pytest.raises(SubjectError, match="neither axis"):
        match_layers(subject, ["across"])
    infos = {info.name: info for info in list_layers(subject)}
    assert (infos["back"].num_units, infos["back"].map_size) == (24, (8, 8)), "channels over places, whatever the order"


def test_tokens_in_the_order_of_windows_are_read_as_merged_ones_are() -> None:
    subject = made(networks.Windows())
    layers = ("merged", "inside", "unrolled")
    with torch.no_grad(), subject.trace(layers) as outputs:
        subject.network(torch.randn(2, *subject.input_shape))
        for layer in layers:  # each normalises once more, which changes next to nothing
            torch.testing.assert_close(outputs[layer], outputs["merged"], rtol=1e-3, atol=1e-3)


class Sensitive(nn.Module):
    """Adds how its first maps answer to the image: needs gradients to see anything."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.act = nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            (slope,) = torch.autograd.grad(self.stem(x).square().sum(), x)
        return self.act(self.stem(x + slope)).mean((2, 3))


def test_a_network_that_needs_gradients_is_refused_before_any_work() -> None:
    with pytest.raises(SubjectError, match="computes gradients while it runs"):
        made(Sensitive())


def test_units_that_never_give_numbers_are_refused_by_name() -> None:
    network = networks.plain()
    with torch.no_grad():
        network.get_parameter("1.0.weight")[3] = torch.nan
    subject = made(network)
    require_finite(subject, ("0",))
    with pytest.raises(SubjectError, match="Layer '1' of it: 1 of its units, the first of them 3, never"):
        require_finite(subject, ("0", "1"))


# --- always the same ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "where", "why"),
    [
        (lambda: networks.plain(tracked=False), "0.1", "depends on the others of the batch"),
        (networks.Late, "norm", "depends on the others of the batch"),
        (lambda: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(12288, track_running_stats=False)), "", "of the batch"),
        (networks.Restless, "b.0", "something else each time"),
        (networks.FewerForBlack, "kept", "its shape depends on what the image shows"),
    ],
)
def test_what_is_not_always_the_same_is_refused(make: Callable[[], nn.Module], where: str, why: str) -> None:
    with pytest.raises(SubjectError, match=rf"{where}.*{why}"):
        made(make())


def test_layers_before_it_can_be_read_by_name() -> None:
    subject = subject_of(networks.Late(), name="late", input_size=SIZE, default_layers=("conv1",))
    assert match_layers(subject, ["conv1"]) == ("conv1",)
    with pytest.raises(SubjectError, match="cannot be read right"):
        match_layers(subject, [])
    with pytest.raises(SubjectError, match=r"'conv2'.*others of the batch"):
        match_layers(subject, ["conv2"])


# --- as they are ----------------------------------------------------------------------------------------------------


def weight_normed() -> nn.Module:
    network = networks.plain()
    nn.utils.parametrizations.weight_norm(network.get_submodule("0.0"))
    nn.utils.spectral_norm(network.get_submodule("1.0"))
    return network


def training() -> nn.Module:
    return networks.plain().train()


WAYS = {
    "view": networks.ViewAfterConv,
    "strided": networks.Strided,
    "experts": networks.Experts,
    "half": lambda: networks.plain().half(),
    "bfloat16": lambda: networks.plain().bfloat16(),
    "double": lambda: networks.plain().double(),
    "parametrised": weight_normed,
    "training": training,
    "buffers": networks.BuffersOnly,
    "extra state": lambda: networks.Around(networks.plain()),
    "autocast": lambda: networks.InHalf(networks.plain()),
    "data parallel": lambda: nn.DataParallel(networks.plain()),
    "averaged": lambda: torch.optim.swa_utils.AveragedModel(networks.plain()),
    "lazy": lambda: nn.Sequential(nn.LazyConv2d(8, 3, 2), nn.ReLU(), nn.LazyConv2d(16, 3, 2)),
}


@pytest.mark.parametrize("way", WAYS)
def test_networks_with_ways_of_their_own_are_read_as_they_are(way: str) -> None:
    """Whatever was made faster: the layers give what hooks give in the network alone, each image by itself."""
    torch.manual_seed(0)
    subject = made(WAYS[way]())
    layers = subject.default_layers
    faster = lean(subject, layers)
    pixels = torch.randint(256, (3, 3, SIZE, SIZE), dtype=torch.uint8)
    plain_network = subject.network
    with torch.no_grad(), Trace(faster.network, layers) as outputs:
        faster.network(faster.normalise(pixels))
    for number in range(3):
        one = subject.normalise(pixels[number, None]).contiguous()
        for layer in layers:
            expected = _hooked(plain_network, layer, one)
            torch.testing.assert_close(outputs[layer][number, None].float(), expected.float(), rtol=0.1, atol=0.05)


def _hooked(network: nn.Module, layer: str, inputs: Tensor) -> Tensor:
    seen: list[Tensor] = []
    handle = network.get_submodule(layer).register_forward_hook(
        lambda _module, _inputs, output: seen.append(output.clone())
    )
    with torch.no_grad():
        network(inputs)
    handle.remove()
    return seen[0]


def test_a_module_of_several_names_is_found_by_each() -> None:
    network = networks.Around(networks.plain())
    network.also = network.net
    subject = made(network)
    assert match_layers(subject, ["also.1"]) == match_layers(subject, ["net.1"]) == ("net.1",)
    with torch.inference_mode(), Trace(network, ["also.1"]) as outputs:
        network(torch.zeros(1, 3, SIZE, SIZE))
    assert outputs["also.1"].shape == (1, 16, 16, 16)


def test_each_call_of_a_shared_module_is_a_layer() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.again, self.act = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 8, 3), nn.ReLU(inplace=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.again(self.act(self.conv(x))))

    network = Shared().eval()
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad(), Trace(network, ["act#1", "act#2"]) as outputs:
        last = network(x)
        assert outputs["act#1"].equal(network.conv(x).relu())
        assert outputs["act#2"].equal(last)


def test_the_same_weights_come_of_a_lazy_network_each_time() -> None:
    first, second = (made(WAYS["lazy"]()) for _ in range(2))
    assert first.weights_id == second.weights_id


def test_a_quantised_network_is_read_or_refused_in_a_sentence() -> None:
    with pytest.warns(Warning, match="deprecated"):
        network = torch.ao.quantization.quantize_dynamic(networks.plain(), {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(SubjectError, match="depends on the others of the batch"):
        made(network)
    before = subject_of(network, name="q", input_size=SIZE, default_layers=("1",))
    assert match_layers(before, ["1"]) == ("1",)


def test_networks_that_nobody_can_look_into_are_refused() -> None:
    with torch.device("meta"):
        empty = networks.plain()
    with pytest.raises(SubjectError, match="its weights have no values"):
        made(empty)
    with pytest.warns(FutureWarning, match="deprecated"):
        scripted = torch.jit.trace(networks.plain().eval(), torch.zeros(1, 3, SIZE, SIZE))
    with pytest.raises(SubjectError, match=r"scripted \(TorchScript\)"):
        made(scripted)  # pyrefly: ignore


def test_making_lean_gives_up_quietly_whatever_goes_wrong() -> None:
    subject = made(networks.plain())

    def fail(*_: object) -> None:
        raise KeyError("a network of its own mind")

    object.__setattr__(subject.network, "__deepcopy__", fail)
    assert lean(subject, ["0", "1"]) is subject


# --- places ---------------------------------------------------------------------------------------------------------


class Seeing(nn.Module):
    """Fires where the image is bright, whatever the layer: weights are positive averages."""

    def __init__(self, *, stride: int, padding: int, kernel: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, kernel, stride, padding, bias=False)
        self.conv2 = nn.Conv2d(4, 4, kernel, stride, padding, bias=False)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.fill_(0.01)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x))


def still(network: nn.Module) -> nn.Module:
    """A transformer whose blocks hardly add to what they get: a bright patch stays the brightest token."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "attn" in name or "mlp" in name:
                parameter.mul_(0.02)
        network.get_parameter("patch.weight").fill_(0.01)
        network.get_parameter("patch.bias").zero_()
        network.get_parameter("special").zero_()
    return network


PLANTED = {
    "padded convolutions": (lambda shape: Seeing(stride=2, padding=1, kernel=3), (64, 64)),
    "large strides": (lambda shape: Seeing(stride=4, padding=3, kernel=7), (96, 96)),
    "unpadded": (lambda shape: Seeing(stride=2, padding=0, kernel=5), (80, 80)),
    "wide": (lambda shape: Seeing(stride=2, padding=1, kernel=3), (48, 96)),
    "tokens": (lambda shape: still(Transformer(shape, special=1)), (64, 64)),
    "tokens, five special at the end": (lambda shape: still(Transformer(shape, special=5, at_the_end=True)), (64, 64)),
    "tokens first, wide": (lambda shape: still(Transformer(shape, special=2, batch_first=False)), (40, 72)),
    "large patches, high": (lambda shape: still(Transformer(shape, special=0, patch=16)), (112, 64)),
}


@pytest.mark.parametrize("kind", PLANTED)
@pytest.mark.parametrize("place", [(0.12, 0.3), (0.9, 0.6)])
def test_a_region_lies_where_the_image_is_bright(kind: str, place: tuple[float, float]) -> None:
    make, (height, width) = PLANTED[kind]
    subject = made(make((height, width)), (height, width))
    row, column = int(place[0] * height), int(place[1] * width)
    image = torch.zeros(1, 3, height, width)
    image[:, :, max(0, row - 5) : row + 5, max(0, column - 5) : column + 5] = 8.0
    for layer in subject.default_layers:
        with torch.inference_mode(), Trace(subject.network, [layer]) as outputs:
            subject.network(torch.zeros(1, 3, height, width))
            dark = outputs[layer].clone()
            subject.network(image)
            brighter = (outputs[layer] - dark).abs().sum(1)
        (region,) = regions(brighter, 0.6 * brighter.amax((1, 2)), 64)
        where = region.nonzero().float().mean(0) / 64
        cell = max(1 / brighter.shape[1], 1 / brighter.shape[2])
        assert (where - torch.tensor(place)).abs().max() <= 0.6 * cell + 0.05, (layer, where)


# --- reports from the field -----------------------------------------------------------------------------------------

FIELD = Path(__file__).parents[4] / "shared" / "field"


def test_networks_of_public_reports_are_read_or_refused_as_they_should(monkeypatch: pytest.MonkeyPatch) -> None:
    if not FIELD.is_dir():
        pytest.skip("the folder of networks after public reports is not beside the project")
    monkeypatch.syspath_prepend(str(FIELD))
    import networks as field  # type: ignore[import-not-found]

    try:
        wrong = {name: problem for name, expected in field.EXPECTED.items() if (problem := _try(name, expected))}
    finally:
        sys.modules.pop("networks", None)
    assert not wrong


def _try(name: str, expected: str) -> str:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the networks' own making
        try:
            subject = load_subject(f"python:networks:{name}", input_size=SIZE)
            layers = match_layers(subject, [])
            match_layers(subject, [layers[-1]])
            lean(subject, layers)
        except SubjectError as error:
            return "" if "refused" in expected else f"refused: {error}"
    return (
        "read"
        if expected.startswith("refused")
        else ""
        if len(layers) > 1 or name in ("without_parameters", "lazy")
        else str(layers)
    )


def test_a_copy_is_read_as_the_network_is() -> None:
    subject = made(Transformer(special=3))
    other = copy.deepcopy(subject.network)
    x = torch.randn(2, 3, SIZE, SIZE)
    with torch.inference_mode(), Trace(subject.network, ["blocks.0"]) as first, Trace(other, ["blocks.0"]) as second:
        subject.network(x)
        other(x)
    assert first["blocks.0"].equal(second["blocks.0"])


class Halves(nn.Module):
    """Half of its units are louder than the others: that is no place in the image."""

    def __init__(self) -> None:
        super().__init__()
        self.small, self.large = nn.Conv2d(3, 6, 9, 9), nn.Conv2d(3, 6, 9, 9)
        self.both = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.both(torch.cat([self.small(x), 9 * self.large(x)], 1)).mean((2, 3))


@pytest.mark.parametrize("size", [27, 36, 63])
def test_louder_units_are_no_places(size: int) -> None:
    torch.manual_seed(0)
    subject = subject_of(Halves(), name="halves", input_size=size)
    infos = {info.name: info for info in list_layers(subject)}
    assert (infos["both"].num_units, infos["both"].map_size) == (12, (size // 9, size // 9))


def test_a_remembered_survey_costs_no_passes_and_is_of_one_network_alone() -> None:
    """Another process is told what was seen; weights that differ are looked at."""
    passes: list[int] = []

    def loaded(weight: float) -> list[LayerInfo]:
        network = networks.plain()
        nn.init.constant_(network.get_parameter("0.0.weight"), weight)
        network.register_forward_hook(lambda *_: passes.append(1))
        return list_layers(made(network))

    def counted(weight: float) -> tuple[list[LayerInfo], int]:
        passes.clear()
        with remembering(memory):
            return loaded(weight), len(passes)

    memory: dict[str, Survey] = {}
    alone = loaded(0.1)
    first, all_passes = counted(0.1)
    memory = pickle.loads(pickle.dumps(memory))  # as it is sent to workers
    again, few_passes = counted(0.1)
    assert first == again == alone
    assert few_passes <= 2 < all_passes, "the two that try the order of memory"
    _, passes_of_other = counted(0.2)
    assert passes_of_other == all_passes
    assert len(memory) == 2
