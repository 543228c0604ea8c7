"""Reading layers while a network runs."""

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.torch_version import TorchVersion

from mami_core.errors import SubjectError
from mami_core.subjects import Trace
from mami_core.subjects.reading import recording

MODES = pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])


class Residual(nn.Module):
    """Adds in place to what its batch norm gave, as torchvision's ResNets do, and ends in an activation in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.bn = nn.BatchNorm2d(3)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn(self.conv(x))
        out += x
        return self.relu(out)


class SharedClamp(nn.Module):
    """Calls one ReLU6 twice, the second time as its last operation."""

    def __init__(self, *, inplace: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 1)
        self.bn = nn.BatchNorm2d(5)
        self.again = nn.Conv2d(5, 4, 1)
        self.act = nn.ReLU6(inplace=inplace)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.again(self.act(self.bn(self.conv(x)))))


def images(count: int = 2, size: int = 8) -> Tensor:
    return 10 * torch.randn(count, 3, size, size)


def num_hooks(network: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in network.modules())


def test_trace_gives_what_the_layers_give_and_leaves_the_network_alone() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 7))
    x = images()
    with torch.no_grad():
        plain = network(x)
        with Trace(network, ["0", "1", "3"]) as outputs:
            traced = network(x)
    assert torch.equal(plain, traced)
    assert outputs["0"].equal(network[0](x))
    assert outputs["1"].equal(network[0](x).relu())
    assert outputs["3"].equal(plain)
    assert list(outputs) == ["0", "1", "3"]


def test_trace_stays_open_over_many_passes() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    batches = [images(count) for count in (3, 1, 2)]
    expected = [network[0](x) for x in batches]
    with torch.inference_mode(), Trace(network, ["0"]) as outputs:
        for x, given in zip(batches, expected, strict=True):
            network(x)
            assert outputs["0"].equal(given)


def test_hooks_come_off_whatever_happens() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU6(inplace=True))
    with Trace(network, ["0", "1"]):
        network(images())
        assert num_hooks(network) > 0
    assert num_hooks(network) == 0
    assert network[1].inplace

    def fail() -> None:
        with Trace(network, ["0", "1"]):
            network(images())
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fail()
    assert num_hooks(network) == 0
    assert network[1].inplace


def read(network: nn.Module, layers: list[str], x: Tensor, *, before_clamp: bool = True) -> dict[str, Tensor]:
    """The layers' values after two passes: the first learns what the second relies on."""
    with Trace(network, layers, before_clamp=before_clamp) as outputs:
        network(x)
        first = {layer: values.clone() for layer, values in outputs.items()}
        network(x)
    assert all(values.equal(first[layer]) for layer, values in outputs.items())
    return dict(outputs)


@MODES
def test_values_are_those_that_the_layer_gave_though_the_network_writes_over_them(mode: type) -> None:
    block = Residual().eval()
    network = nn.Sequential(block, nn.Conv2d(3, 2, 1))
    x = images()
    with mode():
        outputs = read(network, ["0.bn", "0.relu", "0"], x)
        normed = block.bn(block.conv(x))
    assert outputs["0.bn"].equal(normed)
    assert outputs["0.relu"].equal((normed + x).relu())
    assert outputs["0"].equal((normed + x).relu())


@MODES
def test_writing_into_a_view_of_what_a_layer_gave_counts_too(mode: type) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Identity(), nn.Flatten(), nn.ReLU(inplace=True), nn.Linear(144, 2))
    x = images()
    with mode():
        outputs = read(network, ["0", "1", "3"], x)
        assert outputs["0"].equal(network[0](x))
        assert outputs["1"].equal(network[0](x))
        assert outputs["3"].equal(network[0](x).flatten(1).relu())


class Position(nn.Module):
    """Gives one and the same for all images."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(64, 3)
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        table = self.table(torch.arange(64)[None])
        return self.conv(x + table.transpose(1, 2).unflatten(2, (8, 8)))


def test_what_is_the_same_for_all_images_is_refused_whatever_their_number() -> None:
    for count in (1, 3):
        with pytest.raises(SubjectError, match=r"'table'.*no row of numbers for each image"):
            read(Position(), ["table"], images(count))


@MODES
def test_resnet_layers_are_read_before_the_residual_is_added(mode: type) -> None:
    network = torchvision.models.resnet18(num_classes=3).eval()
    x = torch.randn(1, 3, 32, 32)
    with mode():
        outputs = read(network, ["layer1.0.conv2", "layer1.0.bn2", "layer1"], x)
        assert outputs["layer1.0.bn2"].equal(network.get_submodule("layer1.0.bn2")(outputs["layer1.0.conv2"]))
        assert outputs["layer1"].equal(network.layer1(network.maxpool(network.relu(network.bn1(network.conv1(x))))))


@MODES
@pytest.mark.parametrize("inplace", [False, True])
def test_saturating_layers_are_read_before_their_clamp(mode: type, inplace: bool) -> None:
    block = SharedClamp(inplace=inplace).eval()
    network = nn.Sequential(block, nn.Conv2d(4, 2, 1))
    x = images()
    with mode():
        outputs = read(network, ["0", "0.bn", "0.again"], x)
        before = block.bn(block.conv(x))
        assert outputs["0.bn"].equal(before)
        assert outputs["0.bn"].max() > 6
        assert outputs["0"].equal(block.again(before.clamp(0, 6)))
        assert outputs["0"].equal(outputs["0.again"])


@MODES
def test_saturating_layers_can_be_read_as_they_are(mode: type) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU6(inplace=True), nn.Conv2d(4, 2, 1))
    x = images()
    with mode():
        outputs = read(network, ["0", "1"], x, before_clamp=False)
        assert outputs["1"].equal(network[0](x).clamp(0, 6))
        assert outputs["0"].equal(network[0](x))


@pytest.mark.parametrize("clamp", [nn.ReLU6(), nn.Sigmoid(), nn.Hardsigmoid(), nn.Hardtanh(), nn.Tanh()])
def test_ties_at_the_highest_value_vanish(clamp: nn.Module) -> None:
    """Many images reach exactly the highest value; before the clamp one of them is strongest."""
    network = nn.Sequential(nn.Conv2d(3, 4, 1), clamp).eval()
    x = 100 * images(16)
    with torch.no_grad(), Trace(network, ["1"]) as outputs:
        clamped = network(x).amax((2, 3))
    strongest = (clamped == clamped.amax(0)).sum(0)
    assert (strongest > 1).any(), "the test needs ties"
    peaks = outputs["1"].amax((2, 3))
    assert ((peaks == peaks.amax(0)).sum(0) == 1).all()


def test_mobilenet_ties_at_six_vanish_inside_its_containers() -> None:
    network = torchvision.models.mobilenet_v2(num_classes=3).eval()
    with torch.no_grad():
        for parameter in network.get_submodule("features.0.0").parameters():
            parameter.mul_(50)
    x = torch.randn(8, 3, 32, 32)
    layers = ["features.0", "features.1"]  # the first ends in a ReLU6, the second in a batch norm
    with torch.inference_mode(), Trace(network, layers) as before:
        network(x)
    with torch.inference_mode(), Trace(network, layers, before_clamp=False) as after:
        network(x)
    assert (after["features.0"].amax((2, 3)) == 6).sum() > 8
    assert before["features.0"].amax((2, 3)).unique().numel() == 8 * 32
    assert before["features.0"].clamp(0, 6).equal(after["features.0"])
    assert before["features.1"].equal(after["features.1"])


class Sizes(nn.Module):
    """Has a layer of every kind that cannot be read."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Conv2d(3, 3, 1)
        self.twice = nn.ReLU()
        self.pair = Pair()
        self.flat = nn.Flatten(0)
        self.odd = nn.Identity()
        self.order = torch.randperm(49)
        self.conv = nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.pair(self.twice(self.twice(x)))
        self.flat(first)
        self.odd(x.flatten(2)[:, :, self.order])
        return self.conv(first + second)


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x + 1


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        ("unused", "never called"),
        ("twice", "called 2 times"),
        ("pair", "gives 2 tensors of units"),
        ("flat", "several rows for each image"),
        ("odd", "a map in the order of the image's rows"),
    ],
)
def test_a_layer_that_cannot_be_read_is_refused_by_name(layer: str, why: str) -> None:
    network = Sizes()

    with pytest.raises(SubjectError, match=f"'{layer}'.*{why}"):
        read(network, [layer], images(size=7))
    assert num_hooks(network) == 0


def test_unknown_layers_come_with_the_nearest_names() -> None:
    network = torchvision.models.resnet18(num_classes=3)
    with pytest.raises(SubjectError, match=r"no layer 'layer5'.*layer4"):
        Trace(network, ["layer5"])
    with pytest.raises(SubjectError, match="no layer ''"):
        Trace(network, [""])


def test_layers_not_traced_or_not_run_say_so() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    with Trace(network, ["0"]) as outputs:
        with pytest.raises(SubjectError, match="call the network"):
            outputs["0"]
        with pytest.raises(SubjectError, match="'1' is not traced"):
            outputs["1"]


def raw_output(network: nn.Module, layer: str, x: Tensor) -> Tensor:
    outputs: list[Tensor] = []
    handle = network.get_submodule(layer).register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    with torch.inference_mode():
        network(x)
    handle.remove()
    return outputs[0]


def test_tokens_of_a_transformer_are_a_map() -> None:
    network = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=3).eval()
    layer = "encoder.layers.encoder_layer_0"
    x = images(2, 32)
    tokens = raw_output(network, layer, x)
    with torch.inference_mode():
        outputs = read(network, [layer], x)
    assert outputs[layer].shape == (2, 16, 4, 4)
    assert outputs[layer][:, :, 2, 3].equal(tokens[:, 1 + 2 * 4 + 3])  # the first is the class token


def test_maps_with_channels_last_are_turned() -> None:
    network = torchvision.models.SwinTransformer([4, 4], 8, [2, 2], [2, 2], [4, 4], num_classes=3).eval()
    x = images(2, 64)
    plain = raw_output(network, "features.1", x)
    assert plain.shape == (2, 16, 16, 8)
    with torch.inference_mode():
        assert read(network, ["features.1"], x)["features.1"].equal(plain.permute(0, 3, 1, 2))


class Generator:
    """Refuses random numbers as long as it takes a recording for lasting; a clone does not."""

    def __init__(self) -> None:
        self.recording = True

    def clone_state(self) -> "Generator":
        clone = Generator()
        clone.recording = False
        return clone

    def graphsafe_set_state(self, other: "Generator") -> None:
        self.recording = other.recording


@pytest.mark.parametrize(("version", "expected"), [("2.11.0+cu130", ["end", "release"]), ("2.15.0", [])])
def test_the_allocator_and_the_generator_are_told_of_a_recording_that_fails(
    version: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    generator = Generator()
    monkeypatch.setattr(torch.cuda, "default_generators", (generator,))
    monkeypatch.setattr(torch, "__version__", TorchVersion(version))
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", lambda *_: told.append("end"), raising=False)
    monkeypatch.setattr(torch._C, "_cuda_releasePool", lambda *_: told.append("release"), raising=False)

    def failing() -> None:
        raise RuntimeError("operation failed due to a previous error during capture")

    with pytest.raises(RuntimeError, match="previous error"):
        recording._end(failing, torch.device("cuda", 0), (0, 1))
    assert told == expected
    assert not generator.recording


def test_a_recorded_pass_is_known_by_where_all_of_a_networks_numbers_lie() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3))
    before = recording._addresses(network)
    assert recording._addresses(network) == before
    for replaced in (network.get_parameter("2.bias"), network.get_buffer("1.running_var")):
        kept, replaced.data = replaced.data, replaced.data.clone()
        assert recording._addresses(network) != before
        replaced.data = kept
    assert recording._addresses(network) == before
