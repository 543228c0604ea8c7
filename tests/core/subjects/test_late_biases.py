"""Convolutions that leave their bias to the ReLU behind: the same network, and only where that holds."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mami_core.subjects import Trace, lean, load_subject, subject_of
from mami_core.subjects.late_biases import LeavingBias, leavable, leave_biases, leaving_everywhere


def leaving(network: nn.Module) -> list[str]:
    return [name for name, module in network.named_modules() if isinstance(module, LeavingBias)]


def with_biases(network: nn.Module) -> nn.Module:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias)
    return network


class Residual(nn.Module):
    """A block whose sum goes on; `elsewhere`, what its first convolution gives is used once more."""

    def __init__(self, *, elsewhere: bool = False) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.beside = nn.Conv2d(3, 3, 1)
        self.relu = nn.ReLU(inplace=not elsewhere)
        self.elsewhere = elsewhere

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        z = self.second(self.relu(y))
        z += self.beside(x)
        return self.relu(z) + (y if self.elsewhere else 0)


class Odd(nn.Module):
    """All that may be done with a convolution's output."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.conv, self.other, self.what = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), what

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        match self.what:
            case "in place, and the input is used on":
                functional.relu(y, inplace=True)
                return y + y
            case "a sum in place that others see":
                z = y
                y += x
                return functional.relu(z) * z
            case "a sum of one that is used on":
                z = self.other(x)
                y += z
                return torch.relu(y) + z
            case "two sums":
                y += x
                y += self.other(x)
                return y.relu()
            case "a sum that is clamped meanwhile":
                z = self.other(x).tanh() * 9
                y += z
                z.clamp_(-6, 6)
                return y.relu()
            case "a number":
                y += 2
                return y.relu()
            case "a sum that grows":
                y = y.mean((2, 3), keepdim=True)
                return (x + y).relu()
            case "what is no map":
                y += x.mean((2, 3), keepdim=True)
                return y.relu()
            case _:
                return torch.cat([y, self.other(x).relu()], 1).clamp(min=-0.1)


def same_where_they_are_left(network: nn.Module, layers: list[str], x: Tensor) -> None:
    convs = [module for module in network.modules() if isinstance(module, LeavingBias)]
    with torch.inference_mode(), Trace(network, layers) as outputs:
        network(x)
        here = dict(outputs)
        with leaving_everywhere(convs):
            network(x)
        for layer in layers:
            assert type(outputs[layer]) is Tensor
            torch.testing.assert_close(outputs[layer], here[layer], atol=1e-4, rtol=1e-4)


def test_a_resnet_leaves_nearly_all_its_biases_and_gives_the_same() -> None:
    subject = load_subject("torchvision:resnet18", weights="random:0", input_size=64)
    with_biases(subject.network)
    layers = ["layer1", "layer3"]
    network = lean(subject, layers).network
    assert len(leaving(network)) >= 13
    assert "layer3.0.downsample.0" in leaving(network), "its bias goes into the sum's"
    same_where_they_are_left(network, layers, torch.randn(2, 3, 64, 64))


@pytest.mark.parametrize("elsewhere", [False, True])
def test_what_is_added_meanwhile_or_used_elsewhere_does_no_harm(elsewhere: bool) -> None:
    network = nn.Sequential(Residual(elsewhere=elsewhere), nn.Conv2d(3, 3, 1))
    subject = subject_of(network, name="residual", input_size=8, default_layers=("1",))
    network = lean(subject, ["1"]).network
    assert leaving(network) == ["0.first", "0.second", "0.beside"]
    same_where_they_are_left(network, ["1"], torch.randn(2, 3, 8, 8))


@pytest.mark.parametrize(
    ("what", "of_use"),
    [
        ("in place, and the input is used on", ["0.conv"]),
        ("a sum in place that others see", ["0.conv"]),
        ("a sum of one that is used on", ["0.conv", "0.other"]),
        ("two sums", []),
        ("a number", []),
        ("a sum that grows", []),
        ("what is no map", []),
        ("two that are put side by side", ["0.other"]),
    ],
)
def test_whatever_is_done_with_an_output_finds_the_bias_in_it(what: str, of_use: list[str]) -> None:
    odd, x = Odd(what), torch.randn(2, 3, 8, 8)
    with torch.inference_mode():
        expected = odd(x)
        convs = leave_biases(leavable([("conv", odd.conv, (), None), ("other", odd.other, (), None)], []))
        assert len(convs) == 2
        with leaving_everywhere(convs):
            torch.testing.assert_close(odd(x), expected, atol=1e-5, rtol=1e-5)
    network = nn.Sequential(Odd(what), nn.Conv2d(expected.shape[1], 3, 1))
    network = lean(subject_of(network, name="odd", input_size=8, default_layers=("1",)), ["1"]).network
    assert leaving(network) == of_use
    same_where_they_are_left(network, ["1"], x)


def test_maps_that_are_written_into_before_they_are_added_are_noticed() -> None:
    odd = Odd("a sum that is clamped meanwhile")
    odd.other = nn.Conv2d(3, 3, 1, bias=False)
    with torch.no_grad():
        odd.other.weight.mul_(0.1)  # small numbers are not clamped
    network = nn.Sequential(odd, nn.Conv2d(3, 3, 1))
    network = lean(subject_of(network, name="odd", input_size=8, default_layers=("1",)), ["1"]).network
    assert leaving(network) == []


@pytest.mark.parametrize(("layer", "others"), [("0", ["2"]), ("1", ["0", "2"])])
def test_what_is_read_keeps_its_bias(layer: str, others: list[str]) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1))
    subject = subject_of(network, name="plain", input_size=8, default_layers=("4",))
    assert leaving(lean(subject, [layer]).network) == others
