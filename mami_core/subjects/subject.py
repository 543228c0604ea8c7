"""The network being explained, with what it needs to see an image as it was trained to."""

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from mami_core.errors import ConfigError
from mami_core.sizes import Filter, Size
from mami_core.subjects.blocks import default_layers as layers_by_default
from mami_core.subjects.blocks import stage_ends
from mami_core.subjects.precision import Precision, products
from mami_core.subjects.reading.dictionary import Dictionary
from mami_core.subjects.reading.survey import device_of, input_dtype, survey
from mami_core.subjects.reading.trace import Trace
from mami_core.subjects.ready import prepare
from mami_core.subjects.weights import weights_id

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
"""The usual normalisation, on the scale of pixels from 0 to 255."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Subject:
    """A network that is ready to be read: in eval mode, without gradients, channels last where it can be."""

    name: str
    network: nn.Module
    input_size: int
    """Side of its input in pixels, or the longer one."""
    crop: float
    """Side of the centred square that it sees, as a share of the image's short side."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    """Per channel, on the scale of pixels from 0 to 255."""
    default_layers: tuple[str, ...]
    """What is read when nobody names layers."""
    weights_id: str
    """Identifies the weights: a hash of every name, shape and value."""
    input_height: int | None = None
    input_width: int | None = None
    """Where the network's input is no square: the square that it sees of an image is squeezed to this."""
    interpolation: Filter = "bilinear"
    """How images are resized for it."""
    latent_shape: tuple[int, ...] = ()
    """Of a generator, what it makes an image from; `generators.generator_of` makes such a subject."""
    pixel_range: tuple[float, float] = (-1.0, 1.0)
    """Of a generator's images: the values of black and of full colour."""
    precision: Precision = "float32"
    """In which the network computes; `lean` makes one for another."""
    dictionaries: Mapping[str, Dictionary] = field(default_factory=dict)
    """Sparse autoencoders, probes and directions over its layers, by the names that their latents have as layers."""
    slices: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """First unit and end, of layers of which only some units are read; `layers.with_slices` sets them."""
    stages: tuple[str, ...] = ()
    """Where its stages end, whose maps an encoder looks at; empty if there are the default layers only."""
    channels_last: bool = True
    """Whether inputs come channels last in memory, which is faster; some networks fail on them."""

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
    def input_shape(self) -> tuple[int, ...]:
        """Of what the network takes: channels, height and width of an image, or a latent's."""
        return self.latent_shape or (3, self.input_height or self.input_size, self.input_width or self.input_size)

    @property
    def first_units(self) -> dict[str, int]:
        """Of layers of which only some units are read, the first's number."""
        return {layer: first for layer, (first, _) in self.slices.items()}

    @property
    def size(self) -> Size:
        """What an image is resized to for it, or what a generator's are."""
        return Size(self.input_height or self.input_size, self.input_width or self.input_size, self.interpolation)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return device_of(self.network)

    def normalise(self, pixels: UInt8[Tensor, "b 3 _ _"]) -> Float[Tensor, "b 3 h w"]:
        """The network's input: (pixel − mean) / std, in the network's precision and memory format.

        Pixels of another size than the network's are resized, bilinearly.
        """
        mean, std = _channel_constants(self.mean, self.std, pixels.device)
        if self.input_shape[1:] != pixels.shape[2:]:
            pixels = functional.interpolate(pixels, self.input_shape[1:], mode="bilinear", antialias=True)
        memory = torch.channels_last if self.channels_last else torch.contiguous_format
        given = pixels.to(torch.float32, memory_format=memory).sub_(mean).div_(std)
        return given.to(input_dtype(self.network))

    def read(self, given: UInt8[Tensor, "b 3 _ _"] | Float[Tensor, "b ..."], run: Callable[[Tensor], object]) -> None:
        """Let the network see pixels, or make images from latents.

        `run` is the network, or the `Trace.run` of what is to be read off it.
        """
        with products(self.precision):
            run(given.to(input_dtype(self.network)) if self.latent_shape else self.normalise(given))

    def example(self) -> Float[Tensor, "1 ..."]:
        """Noise as the network takes it, always the same."""
        generator = torch.Generator().manual_seed(0)
        if self.latent_shape:
            latent = torch.randn(1, *self.latent_shape, generator=generator)
            return latent.to(self.device, input_dtype(self.network))
        pixels = torch.randint(256, (1, *self.input_shape), dtype=torch.uint8, generator=generator)
        return self.normalise(pixels.to(self.device))

    def trace(self, layers: Sequence[str]) -> AbstractContextManager[Trace]:
        """What reads these layers off the network while it runs: a mapping, once it is entered."""
        return Trace(self.network, layers, dictionaries=self.dictionaries, slices=self.slices)

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
    input_size: int | tuple[int, int] = 224,
    crop: float = 0.875,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    interpolation: Filter = "bilinear",
    default_layers: tuple[str, ...] = (),
    stages: tuple[str, ...] = (),
) -> Subject:
    """Any network as a subject; without `default_layers`, forward passes find its blocks or where its stages end.

    Args:
        network: Takes [B, 3, H, W]. It is made ready in place: eval mode, no gradients.
        name: What tables call it.
        input_size: Side of its input in pixels, or height and width.
        crop: Side of the centred square that it sees, as a share of the image's short side.
        mean: Per channel, on the scale of pixels from 0 to 255.
        std: Per channel, on the scale of pixels from 0 to 255.
        interpolation: How images are resized for it.
        default_layers: What is read when nobody names layers.
        stages: Where its stages end, if not where forward passes find it.

    Raises:
        SubjectError: a network that cannot be read, and why.
    """
    height, width = (input_size, input_size) if isinstance(input_size, int) else input_size
    network, channels_last = prepare(network, (3, height, width))
    if not default_layers:
        found = survey(network, (3, height, width))
        stages = stages or stage_ends(network, found)
        default_layers = layers_by_default(network, found, stages)
    return Subject(
        name=name,
        network=network,
        crop=crop,
        mean=mean,
        std=std,
        interpolation=interpolation,
        default_layers=default_layers,
        stages=stages,
        weights_id=weights_id(network),
        channels_last=channels_last,
        **input_fields(input_size),
    )


def input_fields(input_size: int | tuple[int, int]) -> dict[str, Any]:
    """The fields of a subject that say what size it sees: a square, or height and width."""
    height, width = (input_size, input_size) if isinstance(input_size, int) else input_size
    square = height == width
    return {
        "input_size": max(height, width),
        "input_height": None if square else height,
        "input_width": None if square else width,
    }
