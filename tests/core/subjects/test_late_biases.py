"""Convolutions that leave their bias to the ReLU behind: the same network, and only where that holds."""

import pytest
import torch
from torch import Tensor, nn

from mami_core.subjects import Trace, lean, load_subject, subject_of
from mami_core.subjects.late_biases import AddingBias, LeavingBias, leaving_everywhere


def leaving(network: nn.Module) -> list[str]:
    return [name for name, module in network.named_modules() if isinstance(module, LeavingBias)]


def with_biases(network: nn.Module) -> nn.Module:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias)
    return network


class Residual(nn.Module):
    """A block whose sum goes on; `elsewhere`, what the convolution gives is used twice."""

    def __init__(self, *, elsewhere: bool = False) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.relu = nn.ReLU(inplace=not elsewhere)
        self.elsewhere = elsewhere

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        z = self.second(self.relu(y))
        if self.elsewhere:
            return self.relu(z) + y
        z += x
        return self.relu(z)


def test_a_resnet_leaves_nearly_all_its_biases_and_gives_the_same() -> None:
    subject = load_subject("torchvision:resnet18", weights="random:0", input_size=64)
    with_biases(subject.network)
    layers = ["layer1", "layer3"]
    network = lean(subject, layers).network
    convs = [module for module in network.modules() if isinstance(module, LeavingBias)]
    assert len(convs) >= 12
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode(), Trace(network, layers) as outputs:
        network(x)
        here = dict(outputs)
        with leaving_everywhere(convs):
            network(x)
        for layer in layers:
            torch.testing.assert_close(outputs[layer], here[layer], atol=1e-4, rtol=1e-4)


def test_what_was_added_meanwhile_does_no_harm() -> None:
    network = nn.Sequential(Residual(), nn.Conv2d(3, 3, 1))
    subject = subject_of(network, name="residual", input_size=8, default_layers=("1",))
    assert leaving(lean(subject, ["1"]).network) == ["0.first", "0.second"]


def test_an_output_that_is_used_elsewhere_keeps_its_bias() -> None:
    network = nn.Sequential(Residual(elsewhere=True), nn.Conv2d(3, 3, 1))
    subject = subject_of(network, name="residual", input_size=8, default_layers=("1",))
    assert leaving(lean(subject, ["1"]).network) == []


@pytest.mark.parametrize(("layer", "others"), [("0", ["2"]), ("1", ["0", "2"])])
def test_what_is_read_keeps_its_bias(layer: str, others: list[str]) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1))
    subject = subject_of(network, name="plain", input_size=8, default_layers=("4",))
    assert leaving(lean(subject, [layer]).network) == others
    assert isinstance(lean(subject, ["4"]).network.get_submodule("1"), AddingBias)
