"""Units behind activations, where what a block gives is linear."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from mami_core.errors import SubjectError
from mami_core.subjects import Trace, load_subject, match_layers, subject_of
from mami_core.subjects.reading.activations import activations_in
from mami_core.subjects.said import advice, inventory, number_of


class OwnSwish(nn.Module):
    """A class that nobody knows."""

    def forward(self, x: Tensor) -> Tensor:
        return x * x.sigmoid()


class OfParts(nn.Module):
    """A hard swish out of a gate of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.clamp = nn.ReLU6()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.clamp(x + 3) / 6


class Remembering(nn.Module):
    """Keeps what it is given; one that was tried would fail on maps of another size."""

    def __init__(self) -> None:
        super().__init__()
        self.before: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.before = x if self.before is None else (self.before + x) / 2
        return self.before.relu()


YES = (nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(), nn.LeakyReLU(), nn.PReLU(), nn.GELU(), nn.SiLU(), nn.Hardswish())
NO = (nn.Sigmoid(), nn.Hardsigmoid(), nn.Softmax(1), nn.Identity(), nn.Dropout(), nn.MaxPool2d(3, 1, 1), nn.Flatten())
WITH_OTHERS = (
    nn.InstanceNorm2d(8),
    nn.LocalResponseNorm(3),
    nn.ChannelShuffle(2),
    nn.BatchNorm2d(8),
    nn.Conv2d(8, 8, 1),
)


@pytest.mark.parametrize("module", [*YES, nn.Tanh(), OwnSwish(), OfParts()], ids=str)
def test_an_activation_is_told_by_what_it_does(module: nn.Module) -> None:
    assert "0" in activations_in(nn.Sequential(module).eval())


@pytest.mark.parametrize("module", [*NO, *WITH_OTHERS], ids=str)
def test_gates_and_what_mixes_numbers_are_no_activations(module: nn.Module) -> None:
    assert not activations_in(nn.Sequential(module).eval())


def test_a_module_that_is_tried_keeps_nothing_of_it() -> None:
    module = Remembering()
    activations_in(nn.Sequential(module))
    assert module.before is None


def conv(num_in: int, num_out: int, act: nn.Module | None = None, *, size: int = 1, groups: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(num_in, num_out, size, padding=size // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(num_out), *([act] if act else []))


class Gate(nn.Module):
    def __init__(self, num_units: int) -> None:
        super().__init__()
        self.down, self.act, self.up = nn.Conv2d(num_units, 4, 1), nn.ReLU(), nn.Conv2d(4, num_units, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.up(self.act(self.down(x.mean((2, 3), keepdim=True)))).sigmoid()


class Inverted(nn.Module):
    """An inverted residual with a gate, whose last activation is that of `depth`."""

    def __init__(self, width: int, act: type[nn.Module]) -> None:
        super().__init__()
        self.wide = conv(width, 3 * width, act())
        self.depth = conv(3 * width, 3 * width, act(), size=3, groups=3 * width)
        self.gate = Gate(3 * width)
        self.narrow = conv(3 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.narrow(self.gate(self.depth(self.wide(x))))


class Shared(nn.Module):
    """One activation for both, called outside of any container."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second, self.last = conv(width, 2 * width), conv(2 * width, 2 * width), conv(2 * width, width)
        self.act = nn.ReLU6(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.last(self.act(self.second(self.act(self.first(x)))))


class Bottleneck(Shared):
    """Ends in the activation."""

    def forward(self, x: Tensor) -> Tensor:
        return self.act(super().forward(x))


class Functional(Shared):
    """Ends in an activation that is no module, as the first one is."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.last(self.act(self.second(F.relu(self.first(x))))))


class OnlyFunctions(Shared):
    """Ends linearly, behind activations that are no modules."""

    def forward(self, x: Tensor) -> Tensor:
        return x + self.last(F.gelu(self.second(F.gelu(self.first(x)))))


class Dense(Shared):
    """Gives what it was given, and more."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.last(self.act(self.second(self.act(self.first(x)))))], 1)


class Branches(nn.Module):
    """What goes into the last convolution is what two activations gave."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.other = conv(width, width, nn.ReLU()), conv(width, width, nn.ReLU())
        self.last = nn.Conv2d(2 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.last(torch.cat([self.one(x), self.other(x)], 1))


class Passing(Shared):
    """Its way around ends in a module, called last, which gives what the activation before the block gave."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.around = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.act(self.second(self.act(self.first(x))))) + self.around(x)


class NormThatActs(nn.BatchNorm2d):
    """Has its activation inside, as timm's have."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.act = nn.SiLU()

    def forward(self, input: Tensor) -> Tensor:
        return self.act(super().forward(input))


class EndsInOne(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, width, 1), NormThatActs(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class AddedInPlace(nn.Module):
    """Writes what it was given into what its activation gave."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.act = conv(width, width), nn.ReLU6()

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.conv(x))
        y += x
        return y


def network_of(first: nn.Module, second: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Sequential(first, second), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.mark.parametrize("act", [nn.ReLU6, nn.SiLU, nn.GELU, OwnSwish, OfParts])
def test_of_a_stage_that_ends_linearly_the_hidden_units_are_read(act: type[nn.Module]) -> None:
    network = network_of(*(Inverted(8, act) for _ in range(2)))
    network = nn.Sequential(*(network[:2]), nn.Sequential(nn.Conv2d(8, 4, 1), nn.ReLU()), *network[2:])
    subject = subject_of(network, name="small", input_size=32)
    assert match_layers(subject, ["activations"]) == ("1.0.depth", "1.1.depth", "2")
    assert subject.default_layers == ("1.1.depth", "2"), "the gate's hidden units have one place"
    assert subject.stages == ("1", "2"), "where an encoder looks"
    assert match_layers(subject, ["every-block"]) == ("1.0", "1.1", "2")


@pytest.mark.parametrize("block", [Bottleneck, EndsInOne, Functional, OnlyFunctions, Dense, Branches, AddedInPlace])
def test_a_stage_of_which_that_is_not_sure_is_read_as_it_is(block: type[nn.Module]) -> None:
    network = network_of(block(8), block(16 if block is Dense else 8))
    assert subject_of(network, name="small", input_size=32).default_layers[-1] == "1"


def test_a_shared_activation_is_named_by_its_call() -> None:
    assert subject_of(network_of(Shared(8), Shared(8)), name="small", input_size=32).default_layers == ("1.1.act#2",)


class Whole(nn.Module):
    """Two stages between a first and a last layer that call an activation themselves."""

    def __init__(self, block: type[nn.Module]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.act = nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU6()
        self.one = nn.Sequential(block(8), block(8))
        self.down, self.two = nn.Conv2d(8, 12, 3, 2, 1), nn.Sequential(block(12), block(12))
        self.last = nn.Conv2d(12, 20, 1)
        self.last_act = nn.ReLU6()

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(self.act(self.first(x)))
        return self.last_act(self.last(self.two(self.down(x)))).mean((2, 3))


def sharing(network: nn.Module, *, named_in_a_block: bool) -> nn.Module:
    """With one activation in place of all; by the name that it has first."""
    one = nn.ReLU6()
    for module in network.modules():
        for name in ("act", "last_act"):
            if hasattr(module, name):
                setattr(module, name, one)
    if named_in_a_block:
        del network.act
        network.act = one
    return network


@pytest.mark.parametrize("named_in_a_block", [False, True])
@pytest.mark.parametrize("block", [Shared, Bottleneck, Functional, Passing, AddedInPlace])
def test_an_activation_that_all_blocks_share_is_read_as_if_each_had_its_own(
    block: type[nn.Module], named_in_a_block: bool
) -> None:
    def read(network: nn.Module) -> list[set[bytes]]:
        subject = subject_of(network, name="small", input_size=32)
        by_pattern = [match_layers(subject, patterns) for patterns in ((), ["activations"], ["every-block"])]
        with torch.no_grad(), Trace(network, sorted(set().union(*by_pattern))) as outputs:
            network(x)
        return [{outputs[layer].contiguous().numpy().tobytes() for layer in layers} for layers in by_pattern]

    x = torch.randn(2, 3, 32, 32)
    assert read(sharing(Whole(block), named_in_a_block=named_in_a_block)) == read(Whole(block))


class Again(nn.Module):
    """Goes through the same blocks twice, on half of the grid then."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.stage = nn.Conv2d(3, 8, 3, 2, 1), nn.Sequential(Shared(8), Shared(8))

    def forward(self, x: Tensor) -> Tensor:
        return self.stage(F.avg_pool2d(self.stage(self.first(x)), 2))


def test_of_a_stage_that_is_called_several_times_every_call_is_read() -> None:
    subject = subject_of(Again(), name="again", input_size=32)
    assert subject.stages == ("stage#1", "stage#2")
    assert subject.default_layers == ("stage.1.act#2", "stage.1.act#4")
    assert set(match_layers(subject, ["every-block"])) == {
        f"stage.{block}#{call}" for block in (0, 1) for call in (1, 2)
    }
    assert set(match_layers(subject, ["activations"])) == {f"stage.{b}.act#{call}" for b in (0, 1) for call in (2, 4)}


def test_what_a_block_was_given_is_no_activation_of_its_own() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Sequential(Passing(8), nn.ReLU(), Passing(8)))
    subject = subject_of(network, name="small", input_size=32)
    assert match_layers(subject, ["activations"]) == ("1", "2.0.act#2", "2.1", "2.2.act#2")


def test_what_is_written_into_what_an_activation_gave_is_read() -> None:
    network = network_of(AddedInPlace(8), AddedInPlace(8)).eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad(), Trace(network, ["1.0"]) as outputs:
        network(x)
    with torch.no_grad():
        assert outputs["1.0"].equal(network[:2].get_submodule("1.0")(network[0](x)))


def test_an_activation_out_of_one_that_stands_elsewhere_is_read() -> None:
    shared, activation = nn.ReLU6(), OfParts()
    activation.clamp = shared
    network = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), shared, OneActivation(activation), OneActivation(activation))
    subject = subject_of(network, name="small", input_size=32)
    for patterns in ((), ("activations",), ("every-block",)):
        assert match_layers(subject, patterns)


class OneActivation(nn.Module):
    """An inverted bottleneck with a given activation."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.wide, self.activation, self.narrow = nn.Conv2d(8, 16, 1), activation, nn.Conv2d(16, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.narrow(self.activation(self.wide(x)))


def test_activations_of_torchvisions_networks() -> None:
    def named(name: str) -> tuple[str, ...]:
        return match_layers(load_subject(f"torchvision:{name}", weights="random:0", input_size=64), ["activations"])

    assert named("mobilenet_v2")[:4] == ("features.0", "features.1.conv.0", "features.2.conv.1", "features.3.conv.1")
    assert named("resnet18") == ("relu", *(f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)))
    assert named("alexnet") == tuple(f"features.{number}" for number in (1, 4, 7, 9, 11))


def test_of_a_transformer_the_blocks_are_read_and_the_preset_names_hidden_units() -> None:
    network = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32)
    subject = subject_of(network, name="transformer", input_size=32)
    blocks = tuple(f"encoder.layers.encoder_layer_{number}" for number in (0, 1))
    assert subject.default_layers == blocks
    assert match_layers(subject, ["activations"]) == tuple(f"{block}.mlp.1" for block in blocks)
    assert not advice(subject, blocks)


def test_whoever_names_linear_layers_is_told_of_the_preset() -> None:
    subject = subject_of(network_of(Shared(8), Shared(8)), name="small", input_size=32)
    (line,) = advice(subject, ["0", "1.0", "1.1:lowest"])
    assert line.startswith("2 of them end in no activation; --layers activations")
    assert not advice(subject, match_layers(subject, ["activations"]))


@pytest.mark.parametrize("patterns", [("every-block", "activations"), ("1.*",), ("1.1:lowest", "1.1.act#2")])
def test_of_a_block_that_is_named_beside_its_activation_only_that_is_said(patterns: tuple[str, ...]) -> None:
    subject = subject_of(network_of(Shared(8), Shared(8)), name="small", input_size=32)
    (line,) = advice(subject, match_layers(subject, patterns), patterns)
    assert "inside others" in line
    assert "--layers every-block" in line
    assert "--layers activations" in line


@pytest.mark.parametrize("pattern", ["activations", "activations:lowest", "activations[0:4]"])
@pytest.mark.parametrize("block", [OnlyFunctions, Dense, Branches])
def test_blocks_that_the_preset_keeps_are_named(block: type[nn.Module], pattern: str) -> None:
    blocks = [block(8 if number == 0 or block is not Dense else 8 * 2**number) for number in range(4)]
    subject = subject_of(nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), *blocks), name="small", input_size=32)
    (line,) = advice(subject, match_layers(subject, [pattern]), [pattern])
    assert line.startswith("4 of them are blocks in which no last activation is sure")
    assert line.endswith("1, 2, 3 and 1 more")
    assert line in inventory(subject, match_layers(subject, [pattern]), [pattern])
    told = [line for line in advice(subject, subject.default_layers) if "no last activation is sure" in line]
    assert not told, "who did not ask for activations misses none"


class EndsInRelu(OnlyFunctions):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x))


@pytest.mark.parametrize("patterns", [(), ("every-block",), ("1.?",), ("1.1:lowest", "1.0")])
def test_of_blocks_with_functions_for_activations_it_is_said_that_they_seem_to_end_linearly(
    patterns: tuple[str, ...],
) -> None:
    subject = subject_of(network_of(OnlyFunctions(8), OnlyFunctions(8)), name="small", input_size=32)
    (line,) = advice(subject, match_layers(subject, patterns), patterns)
    number = "2 of them seem" if patterns else "1 of them seems"
    assert line.startswith(f"{number} to end in no activation")
    assert "--layers" not in line, "the preset would keep them"


@pytest.mark.parametrize("patterns", [(), ("every-block",), ("1.0", "1.1")])
@pytest.mark.parametrize("block", [Bottleneck, Functional, EndsInOne, EndsInRelu, Dense, Branches])
def test_of_other_blocks_nothing_of_the_kind_is_said(block: type[nn.Module], patterns: tuple[str, ...]) -> None:
    subject = subject_of(network_of(block(8), block(16 if block is Dense else 8)), name="small", input_size=32)
    assert not advice(subject, match_layers(subject, patterns), patterns)


def test_one_is_said_in_the_singular() -> None:
    subject = subject_of(network_of(Shared(8), Shared(8)), name="small", input_size=32)
    assert advice(subject, ["1.0"])[0].startswith("1 of them ends in no activation")
    assert "8 neurons in 1 layer\n" in inventory(subject, ["1.0"])
    assert number_of(1, "neuron") == "1 neuron"
    assert number_of(1024, "neuron") == "1,024 neurons"


@pytest.mark.parametrize("block", [Bottleneck, Functional, EndsInOne, Shared])
def test_of_blocks_whose_activation_is_named_or_ends_them_nothing_is_said(block: type[nn.Module]) -> None:
    subject = subject_of(network_of(block(8), block(8)), name="small", input_size=32)
    assert not advice(subject, match_layers(subject, ["activations"]), ["activations"])


def test_a_network_without_activations_says_so() -> None:
    subject = subject_of(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)), name="linear", input_size=16)
    with pytest.raises(SubjectError, match="no layers that 'activations' stands for"):
        match_layers(subject, ["activations"])
