"""Networks on a GPU: passes that are recorded give what they gave before, to the bit."""

import pytest
import torch
from torch import Tensor, nn

from mami_core.subjects import Precision, Trace, generate, generator_of, lean, load_subject
from mami_core.subjects.late_biases import LeavingBias
from mami_core.subjects.reading import recording
from tests import tiny

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator"),
]

LAYERS = ["layer1", "layer3"]


class Asking(nn.Module):
    """Looks at its numbers while it runs: no graph can do that."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1, self.layer3 = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer1(x)
        return self.layer3(y if float(y.mean()) < 1e9 else -y)


def recorded(network: nn.Module) -> bool:
    return any(passes._graph is not None for passes in recording._PASSES[network].values())


def check_passes(network: nn.Module, inputs: list[Tensor]) -> None:
    """`run` gives what a pass gives that nobody records."""
    with torch.inference_mode(), Trace(network, LAYERS) as outputs:
        for each in inputs:
            outputs.run(each)
            found = {layer: outputs[layer].clone() for layer in LAYERS}
            network(each)
            assert all(found[layer].equal(outputs[layer]) for layer in LAYERS)


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_recorded_passes_give_the_same_bits(precision: Precision) -> None:
    subject = load_subject("torchvision:resnet18", weights="random:0", input_size=64)
    network = lean(subject, LAYERS, precision=precision).to("cuda").network
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    images = [torch.randn(8, 3, 64, 64, device="cuda", dtype=dtype) for _ in range(7)]
    check_passes(network, [each.contiguous(memory_format=torch.channels_last) for each in images])
    assert recorded(network)


def test_passes_follow_weights_that_are_replaced() -> None:
    network = load_subject("torchvision:resnet18", weights="random:0", input_size=64).network.to("cuda")
    images = [torch.randn(2, 3, 64, 64, device="cuda") for _ in range(5)]
    check_passes(network, images)
    assert recorded(network)
    weight = network.get_parameter("layer3.1.conv2.weight")
    weight.data = weight.data * 2
    check_passes(network, images)


def test_what_cannot_be_recorded_runs_as_before() -> None:
    network = Asking().cuda().eval()
    check_passes(network, [torch.randn(2, 3, 16, 16, device="cuda") for _ in range(6)])
    assert not recorded(network)
    assert torch.randn(2, device="cuda").isfinite().all(), "there are random numbers still"
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for _ in range(5):
        used = torch.empty(1 << 20, device="cuda")
        used.record_stream(torch.cuda.Stream())
        del used
        torch.cuda.synchronize()
    torch.empty(1, device="cuda")  # the allocator looks at what it waits for
    assert torch.cuda.memory_allocated() <= before, "nothing is kept for a recording that has ended"


def test_biases_added_late_give_the_same() -> None:
    subject = load_subject("torchvision:resnet18", weights="random:0", input_size=64)
    for module in subject.network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias)
    network = lean(subject, LAYERS).network
    assert any(isinstance(module, LeavingBias) for module in network.modules())
    x = torch.randn(4, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode(), Trace(network, LAYERS) as outputs:
        network(x)
        here = {layer: outputs[layer].clone() for layer in LAYERS}
        torch.backends.cudnn.allow_tf32 = False
        network.cuda()(x.cuda())
        for layer in LAYERS:
            torch.testing.assert_close(outputs[layer].cpu(), here[layer], atol=1e-3, rtol=1e-3)


def test_a_generator_may_be_on_the_gpu_already() -> None:
    here = generator_of(tiny.TinyGenerator(), name="it", latent_shape=8)
    latents = torch.randn(5, 8)
    expected = generate(here, latents)
    there = generator_of(here.network.to("cuda"), name="it", latent_shape=8)
    assert (generate(there, latents).cpu().int() - expected.int()).abs().max() <= 1
