"""Which layers a subject has, what is meant by a name, and what is read by default."""

import re

import pytest
import torch
import torchvision
from torch import Tensor, nn

from mami_core.errors import SubjectError
from mami_core.subjects import LayerInfo, Trace, lean, list_layers, load_subject, match_layers, subject_of

RESNET = load_subject("torchvision:resnet18", weights="random:0", input_size=64)


class Odd(nn.Module):
    """A network that belongs to no family: stages in a list, a part that never runs, scores at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Conv2d(3, 3, 1)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU())
            for before, after in ((3, 4), (4, 6), (6, 8))
        )
        self.norm = nn.BatchNorm2d(8)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.scores = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages:
            x = stage(x)
        return self.scores(self.pool(self.norm(x)).flatten(1))


def test_layers_are_listed_with_units_and_map_sizes() -> None:
    infos = {info.name: info for info in list_layers(RESNET)}
    assert infos["layer3"] == LayerInfo(
        name="layer3", kind="Sequential", num_units=256, map_size=(4, 4), saturates=False
    )
    assert infos["fc"] == LayerInfo(name="fc", kind="Linear", num_units=1000, map_size=None, saturates=False)
    assert "layer1.0.relu" not in infos, "it is called twice"
    modules = [name for name, _ in RESNET.network.named_modules()]
    named = [name for name in infos if "#" not in name]
    assert named == [name for name in modules if name in infos]
    assert infos["layer1.0.relu#2"].num_units == 64, "but each of its calls is a layer"


def test_every_listed_layer_can_be_read() -> None:
    infos = list_layers(RESNET)
    x = RESNET.normalise(torch.zeros(2, 3, 64, 64, dtype=torch.uint8))
    with torch.inference_mode(), Trace(RESNET.network, [info.name for info in infos]) as outputs:
        RESNET.network(x)
    for info in infos:
        assert outputs[info.name].shape == (2, info.num_units, *(info.map_size or ())), info.name


def test_names_and_patterns_come_in_the_networks_order_and_once() -> None:
    assert match_layers(RESNET, ["layer4", "layer?", "conv1"]) == ("conv1", "layer1", "layer2", "layer3", "layer4")
    assert match_layers(RESNET, ["fc"]) == ("fc",)
    assert match_layers(RESNET, ["layer1.*.bn[12]"]) == (
        "layer1.0.bn1",
        "layer1.0.bn2",
        "layer1.1.bn1",
        "layer1.1.bn2",
    )


def test_no_pattern_means_the_default_layers() -> None:
    assert match_layers(RESNET, []) == RESNET.default_layers == ("conv1", "layer1", "layer2", "layer3", "layer4")


def test_a_name_that_fits_nothing_comes_with_the_nearest() -> None:
    with pytest.raises(SubjectError, match=r"no layer 'layr3'.*Nearest: .*layer3"):
        match_layers(RESNET, ["layr3"])
    with pytest.raises(SubjectError, match=r"no layer 'block\.\*'"):
        match_layers(RESNET, ["layer1", "block.*"])


def test_a_name_that_cannot_be_read_says_why() -> None:
    with pytest.raises(SubjectError, match=r"'layer1\.0\.relu'.*called 2 times"):
        match_layers(RESNET, ["layer1.0.relu"])
    odd = subject_of(Odd(), name="odd", input_size=32)
    with pytest.raises(SubjectError, match=r"'unused'.*never called"):
        match_layers(odd, ["unused"])


def test_an_unknown_network_is_read_at_the_ends_of_its_stages() -> None:
    assert subject_of(Odd(), name="odd", input_size=64).default_layers == ("stages.0", "stages.1", "norm")


def test_a_network_without_maps_asks_for_layers() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    with pytest.raises(SubjectError, match="no layer with maps"):
        subject_of(flat, name="flat", input_size=2)
    assert subject_of(flat, name="flat", input_size=2, default_layers=("1",)).default_layers == ("1",)


def test_an_input_that_the_network_cannot_take_is_said() -> None:
    transformer = torchvision.models.VisionTransformer(32, 8, 1, 1, 8, 8)
    with pytest.raises(SubjectError, match=r"fails on an input of 31 × 31 pixels.*Wrong image"):
        subject_of(transformer, name="transformer", input_size=31)


def behind(pattern: str, *blocks: int | str) -> str:
    return " ".join(map(pattern.format, blocks))


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("efficientnet_lite0", f"_bn0 _blocks.0._swish {behind('_blocks.{}._swish#2', 2, 4, 7, 10, 14, 15)} _bn1"),
        ("efficientnet_lite2", f"_bn0 _blocks.0._swish {behind('_blocks.{}._swish#2', 3, 6, 10, 14, 19, 20)} _bn1"),
        ("torchvision:alexnet", "features.1 features.4 features.7 features.11"),
        ("torchvision:squeezenet1_1", "features.1 features.4 features.7 features.10 features.12"),
        ("torchvision:regnet_x_400mf", "stem " + " ".join(f"trunk_output.block{n}" for n in (1, 2, 3, 4))),
        ("torchvision:shufflenet_v2_x0_5", "conv1 stage2 stage3 stage4 conv5"),
        (
            "torchvision:efficientnet_b0",
            "features.0 features.1.0.block.0 "
            + behind("features.{}.block.1", *("2.1", "3.1", "4.2", "5.2", "6.3", "7.0"))
            + " features.8",
        ),
        (
            "torchvision:mobilenet_v2",
            f"features.0 features.1.conv.0 {behind('features.{}.conv.1', 3, 6, 10, 13, 16, 17)} features.18",
        ),
        ("torchvision:convnext_tiny", behind("features.{}.block.4", "1.2", "3.2", "5.8", "7.2")),
        (
            "torchvision:densenet121",
            "features.relu0 features.denseblock1 features.transition1 features.denseblock2 features.transition2 "
            "features.denseblock3 features.transition3 features.norm5",
        ),
        ("torchvision:swin_t", "features.1 features.3 features.5 features.7"),
    ],
)
def test_families_are_read_where_their_stages_end(name: str, layers: str) -> None:
    subject = load_subject(name, weights="random:0", input_size=96)
    assert subject.default_layers == tuple(layers.split())
    assert match_layers(subject, layers.split()) == subject.default_layers


def test_a_lean_subject_gives_the_same_with_fewer_modules() -> None:
    # Batch norms that do something: with fresh ones, folding could not go wrong.
    generator = torch.Generator().manual_seed(1)
    subject = load_subject("torchvision:resnet18", weights="random:0", input_size=64)
    for name, tensor in subject.network.state_dict().items():
        if re.search(r"(bn\d|downsample\.1)\.(weight|bias|running_mean|running_var)", name):
            tensor.uniform_(0.5, 1.5, generator=generator)
    layers = ["conv1", "layer1.0.bn2", "layer2.0.conv1", "layer4", "fc"]
    faster = lean(subject, layers)
    x = subject.normalise(torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8))
    with torch.inference_mode(), Trace(subject.network, layers) as before, Trace(faster.network, layers) as after:
        subject.network(x)
        faster.network(x)
    for layer in layers:
        torch.testing.assert_close(before[layer], after[layer], rtol=1e-4, atol=1e-4 * before[layer].abs().max().item())
    left = [name for name, module in faster.network.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert left == ["bn1", "layer2.0.bn1"], "those whose convolutions are read stay"


class TwoReaders(nn.Module):
    """What the convolution gives is used beside the batch norm too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.head(self.bn(x) + x)


def test_a_network_that_cannot_be_folded_is_left_as_it_is() -> None:
    network = TwoReaders()
    network.get_buffer("bn.running_var").fill_(9.0)
    subject = subject_of(network, name="two", input_size=16, default_layers=("head",))
    assert lean(subject, ["head"]) is subject


class ByName(nn.Module):
    """A batch norm that gets its input by name, and a weight that has a history."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.scaled = self.conv.weight * 2

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(input=self.conv(x))


@pytest.mark.parametrize("copied", [True, False])
def test_networks_with_ways_of_their_own_are_left_as_they_are(copied: bool) -> None:
    network = ByName()
    if copied:
        del network.scaled
    subject = subject_of(network, name="odd", input_size=16, default_layers=("bn",))
    faster = lean(subject, ["bn"])
    assert isinstance(faster.network.get_submodule("bn"), nn.BatchNorm2d)
    assert (faster is subject) == (not copied)
