"""The network being explained, with what it needs to see an image as it was trained to."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from mami_core.errors import ConfigError
from mami_core.subjects.precision import Precision, products
from mami_core.subjects.stages import stage_ends
from mami_core.subjects.weights import weights_id

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
"""The usual normalisation, on the scale of pixels from 0 to 255."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Subject:
    """A network that is ready to be read: in eval mode, without gradients, channels last."""

    name: str
    network: nn.Module
    input_size: int
    """Side of the square it sees, in pixels."""
    crop: float
    """Side of the centred square that it sees, as a share of the image's short side."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    """Per channel, on the scale of pixels from 0 to 255."""
    default_layers: tuple[str, ...]
    weights_id: str
    """Identifies the weights: a hash of every name, shape and value."""
    precision: Precision = "float32"
    """In which the network computes; `lean` makes one for another."""

    def __post_init__(self) -> None:
        """Refuse what no network can mean."""
        if self.input_size < 1 or not 0 < self.crop <= 1:
            raise ConfigError(
                f"Subject '{self.name}': expected input_size ≥ 1 and 0 < crop ≤ 1, "
                f"got input_size={self.input_size}, crop={self.crop}."
            )
        if min(self.std) < 1:
            raise ConfigError(
                f"Subject '{self.name}': std {self.std} would stretch pixels from 0 to 255 beyond ±255. "
                "Give mean and std on the scale of pixels from 0 to 255: multiply those for 0 to 1 by 255."
            )

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    def normalise(self, pixels: UInt8[Tensor, "b 3 s s"]) -> Float[Tensor, "b 3 s s"]:
        """The network's input, channels last: (pixel − mean) / std."""
        mean, std = _channel_constants(self.mean, self.std, pixels.device)
        inputs = pixels.to(torch.float32, memory_format=torch.channels_last).sub_(mean).div_(std)
        return inputs.bfloat16() if self.precision == "bfloat16" else inputs

    def read(self, pixels: UInt8[Tensor, "b 3 s s"], run: Callable[[Tensor], object]) -> None:
        """Let the network see the pixels: `run` is itself, or the `Trace.run` of what is to be read off it."""
        with products(self.precision):
            run(self.normalise(pixels))

    def to(self, device: torch.device | str) -> "Subject":
        """This subject, its network moved to `device`."""
        self.network.to(device)
        return self


@functools.lru_cache(maxsize=64)
def _channel_constants(mean: tuple, std: tuple, device: torch.device) -> tuple[Tensor, Tensor]:
    # Kept, so that a batch costs no copy to the device.
    return torch.tensor(mean, device=device).view(1, 3, 1, 1), torch.tensor(std, device=device).view(1, 3, 1, 1)


def subject_of(
    network: nn.Module,
    *,
    name: str,
    input_size: int = 224,
    crop: float = 0.875,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    default_layers: tuple[str, ...] = (),
) -> Subject:
    """Any network as a subject; without `default_layers`, one forward pass finds where its stages end."""
    prepare(network)
    return Subject(
        name=name,
        network=network,
        input_size=input_size,
        crop=crop,
        mean=mean,
        std=std,
        default_layers=default_layers or stage_ends(network, input_size),
        weights_id=weights_id(network),
    )


def prepare(network: nn.Module) -> nn.Module:
    """The network itself, in eval mode, without gradients, channels last: how every subject runs."""
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
