"""Of a network that makes images: in which part of the image each place of a tensor acts, by gradients of stripes."""

import torch
from torch import Tensor, nn

from mami_core.subjects.reading.probes import STRIPES
from mami_core.subjects.reading.watch import Passage, Place, spread_along, tensors_in, watch

_LATENTS = 8
"""So many, because a place that acts on no image for one of them (behind a ReLU) does for another."""


def note_acts(network: nn.Module, like: Tensor, passages: dict[Place, Passage]) -> None:
    """Write down how strongly each place acts on the whole image and on its stripes, as `Passage.responses` wants it.

    `like` is one latent. Nothing is written down where the network gives no image or bears no gradients.
    """
    seen: dict[Place, Tensor] = {}
    images: list[Tensor] = []

    def look(place: Place, tensor: Tensor) -> None:
        if place in passages and place.side == "output" and tensor.requires_grad:
            seen[place] = tensor

    def pass_on(name: str, _module: nn.Module, output: object) -> object:
        if not name:
            images.extend(tensor for _, tensor in tensors_in(output) if tensor.ndim == 4)
        return output.clone() if isinstance(output, Tensor) else output  # what is written into is not what is asked

    try:
        latents = torch.randn(_LATENTS, *like.shape, generator=torch.Generator().manual_seed(2)).to(like)
        watch(network, latents.requires_grad_(True), look, pass_on, gradients=True)
        if len(images) == 1 and seen:
            _note(images[0], seen, passages)
    except RuntimeError:  # an operation without a gradient: layers of unclear order are then left out
        return


def _note(image: Tensor, seen: dict[Place, Tensor], passages: dict[Place, Passage]) -> None:
    weights = torch.randn(image.shape, generator=torch.Generator().manual_seed(1)).to(image)
    height, width = image.shape[2:]
    masks = [torch.ones(height, width, dtype=torch.bool), *(stripes.over(height, width) for stripes in STRIPES)]
    places, tensors = zip(*seen.items(), strict=True)
    for mask in masks:
        total = (image * weights * mask.to(image)).sum()
        for place, gradient in zip(
            places, torch.autograd.grad(total, tensors, retain_graph=True, allow_unused=True), strict=True
        ):
            _add(passages[place], gradient)


def _add(passage: Passage, gradient: Tensor | None) -> None:
    if gradient is None or passage.batch_axis is None:
        return
    strength = spread_along(gradient.float().abs().mean(passage.batch_axis))
    for axis in range(strength.ndim):
        others = [each for each in range(strength.ndim) if each != axis]
        along = strength.mean(others) if others else strength
        key = axis + (axis >= passage.batch_axis)
        before = passage.responses.get(key)
        row = along.detach().cpu()[None]
        passage.responses[key] = row if before is None else torch.cat([before, row])
