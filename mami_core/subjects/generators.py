"""Generators as subjects: networks that make images from latents, and whose units act where the image then shows it."""

import logging

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from mami_core.errors import SubjectError
from mami_core.subjects.blocks import default_layers as layers_by_default
from mami_core.subjects.blocks import stage_ends
from mami_core.subjects.precision import products
from mami_core.subjects.reading.survey import device_of, input_dtype, survey
from mami_core.subjects.reading.watch import tensors_in
from mami_core.subjects.ready import prepare
from mami_core.subjects.subject import Subject
from mami_core.subjects.weights import weights_id

logger = logging.getLogger(__name__)

_BEYOND = 0.05
"""How far pixels may lie beyond their range, as a share of it."""


def generator_of(
    network: nn.Module,
    *,
    name: str,
    latent_shape: int | tuple[int, ...],
    pixel_range: tuple[float, float] = (-1.0, 1.0),
    default_layers: tuple[str, ...] = (),
) -> Subject:
    """A network that makes images as a subject; its units are explained by the images in which they act most.

    Args:
        network: Takes latents [B, *latent_shape] and gives square images [B, 3, S, S], or grey ones [B, 1, S, S]. It is
            made ready in place.
        name: What tables call it.
        latent_shape: Of one latent. Several inputs, such as noise and class, go in one tensor that the network splits.
        pixel_range: The values of black and of full colour.
        default_layers: What is read when nobody names layers.

    Raises:
        SubjectError: a network that cannot be read, or gives no such images, and why.
    """
    shape = (latent_shape,) if isinstance(latent_shape, int) else latent_shape
    network, channels_last = prepare(network, shape)
    found = survey(network, shape)
    noise = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        made = _made(network, noise)
    _check_range(network, made, pixel_range)
    image = (1, *made.shape[1:])
    layers = default_layers or tuple(
        layer
        for layer in layers_by_default(network, found, stage_ends(network, found))
        if found.observations[layer].shape != image
    )
    if not layers:
        raise SubjectError(
            f"Of the generator {type(network).__name__} nothing could be read but its image. Name layers."
        )
    return Subject(
        name=name,
        network=network,
        input_size=made.shape[-1],
        crop=1.0,
        mean=(0.0, 0.0, 0.0),
        std=(255.0, 255.0, 255.0),
        latent_shape=shape,
        pixel_range=pixel_range,
        default_layers=layers,
        weights_id=weights_id(network),
        channels_last=channels_last,
    )


@torch.inference_mode()
def generate(subject: Subject, latents: Float[Tensor, "b ..."]) -> UInt8[Tensor, "b 3 s s"]:
    """The images that a generator makes from some latents, as pixels from 0 to 255."""
    with products(subject.precision):
        made = _made(subject.network, latents)
    low, high = subject.pixel_range
    pixels = made.float().sub(low).mul_(255 / (high - low)).round_().clamp_(0, 255).to(torch.uint8)
    return pixels.expand(-1, 3, -1, -1)


def _made(network: nn.Module, latents: Tensor) -> Tensor:
    given = latents.to(device_of(network), input_dtype(network))
    images = [tensor for _, tensor in tensors_in(network(given)) if tensor.ndim == 4]
    fitting = [each for each in images if each.shape[1] in (1, 3) and each.shape[2] == each.shape[3]]
    if len(fitting) != 1:
        shapes = ", ".join(str(tuple(each.shape)) for each in images) or "no image"
        raise SubjectError(
            f"The generator {type(network).__name__} gives {shapes}; expected one batch of square images "
            "[B, 3, S, S] or [B, 1, S, S]. Let the factory's network give just that, cropped to squares."
        )
    return fitting[0]


def _check_range(network: nn.Module, made: Tensor, pixel_range: tuple[float, float]) -> None:
    (low, high), kind = pixel_range, type(network).__name__
    lowest, highest = float(made.min()), float(made.max())
    room = _BEYOND * (high - low)
    if not low - room <= lowest <= highest <= high + room:
        raise SubjectError(
            f"The generator {kind} gives pixels from {lowest:.3g} to {highest:.3g}, expected {low:g} to {high:g}. "
            "Say their range: generator_of(…, pixel_range=(LOW, HIGH)), or clamp them in the network."
        )
    if low < 0 <= lowest:
        logger.warning("%s gives no pixel below 0: if black is 0, say generator_of(…, pixel_range=(0, %g))", kind, high)
