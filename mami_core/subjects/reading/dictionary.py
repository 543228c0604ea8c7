"""Latents of sparse autoencoders and transcoders, probes and directions: linear maps over a layer, and what follows.

latent = activation(W (x − pre) + bias), x the layer's values at one position, normalised as the dictionary says.

Axes: B images, C units of the layer, P positions, L latents.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mami_core.errors import SubjectError

Activation = Literal["linear", "relu", "topk", "threshold", "gated"]
"""Nothing, ReLU, the k highest at a position, those above a threshold (JumpReLU; BatchTopK once it is trained), or
gated: gain · (W (x − pre) + bias) + offset where W (x − pre) + bias is above zero (Rajamanoharan et al., 2024, arXiv
2404.16014, equations 6 to 8)."""
Normalisation = Literal["none", "layer_norm", "unit_norm"]

_BLOCK = 2**14  # latents at a time where all must be looked at


@dataclass(frozen=True, slots=True, eq=False)
class Dictionary:
    """A lens (see `reading.lenses`) whose units are latents."""

    layer: str
    """Of the subject, whose units its inputs are."""
    encoder: Float[Tensor, "latents units"]
    bias: Float[Tensor, " latents"]
    pre: Float[Tensor, " units"]
    """Taken off the input: the decoder's bias, a mean, or zeros."""
    activation: Activation = "relu"
    k: int = 0
    threshold: Tensor | None = None
    """[latents] or one number."""
    gain: Tensor | None = None
    offset: Tensor | None = None
    """[latents], of gated ones."""
    normalisation: Normalisation = "none"
    scale: float = 1.0
    """What inputs are multiplied with once they are normalised."""
    id: str = ""
    """Identifies the file's contents."""

    @property
    def num_units(self) -> int:
        """How many latents."""
        return len(self.encoder)

    def prepare(self, given: Float[Tensor, "b c *p"]) -> Float[Tensor, "b d *p"]:
        """The inputs as the encoder takes them; for the k highest, with what these are above as one more row."""
        if given.shape[1] != self.encoder.shape[1]:
            raise SubjectError(
                f"The dictionary takes {self.encoder.shape[1]} inputs, layer '{self.layer}' has {given.shape[1]} units."
            )
        inputs = given.float().movedim(1, -1)
        if self.normalisation == "layer_norm":
            inputs = inputs - inputs.mean(-1, keepdim=True)
            inputs = inputs / (inputs.std(-1, keepdim=True) + 1e-5)
        elif self.normalisation == "unit_norm":
            inputs = inputs / inputs.norm(dim=-1, keepdim=True).clamp(min=1e-8)
        inputs = inputs * self.scale - self.pre.to(inputs.device)
        if self.activation == "topk":
            inputs = torch.cat([inputs, self._level(inputs)], -1)
        return inputs.movedim(-1, 1)

    def units(self, prepared: Tensor, some: slice) -> Tensor:
        """A range of latents, [B, L, *positions]."""
        width = self.encoder.shape[1]
        inputs = prepared[:, :width].movedim(1, -1)
        found = self._linear(inputs, some).movedim(-1, 1)
        return self._active(found, some, prepared[:, width:])

    def pairs(self, prepared: Tensor, units: Int64[Tensor, " n"]) -> Tensor:
        """One latent for each row, [n, *positions]."""
        width, here = self.encoder.shape[1], units.to(self.encoder.device)
        weight, bias = self.encoder[here].to(prepared), self.bias[here].to(prepared)
        inputs = prepared[:, :width].reshape(len(units), width, -1)  # [n, C, P]
        found = (torch.einsum("ncp,nc->np", inputs, weight) + bias[:, None]).view(len(units), *prepared.shape[2:])
        return self._active(found[:, None], here, prepared[:, width:])[:, 0]

    def _linear(self, inputs: Float[Tensor, "*p c"], some: slice) -> Float[Tensor, "*p l"]:
        weight, bias = self.encoder[some].to(inputs), self.bias[some].to(inputs)
        return torch.nn.functional.linear(inputs, weight, bias)

    def _active(self, found: Tensor, some: slice | Tensor, level: Tensor) -> Tensor:
        """What follows the linear map; `found` [n, 1, *positions] where `some` names a latent for each row."""
        if self.activation == "linear":
            return found
        if self.activation == "topk":
            return torch.where(found > level, found, 0).relu()
        if self.activation == "threshold":
            assert self.threshold is not None
            return torch.where(found > _of_latents(self.threshold, some, found), found, 0).relu()
        if self.activation == "gated":
            assert self.gain is not None
            assert self.offset is not None
            strength = found * _of_latents(self.gain, some, found) + _of_latents(self.offset, some, found)
            return torch.where(found > 0, strength, 0).relu()
        return found.relu()

    def _level(self, inputs: Float[Tensor, "*p c"]) -> Float[Tensor, "*p 1"]:
        """What the k highest latents at each position are above, and no other: midway to the next.

        So a last bit that falls out otherwise when a latent is computed in another block takes none in and drops none.
        """
        highest = inputs.new_full((*inputs.shape[:-1], self.k + 1), -torch.inf)
        for first in range(0, self.num_units, _BLOCK):
            found = self._linear(inputs, slice(first, first + _BLOCK))
            highest = torch.cat([highest, found], -1).topk(self.k + 1, -1).values
        return highest[..., -2:].mean(-1, keepdim=True)


def _of_latents(values: Tensor, some: slice | Tensor, found: Tensor) -> Tensor:
    """One number, or one for each latent, in the shape of what was found: latents along axis 1, or along the rows."""
    if not values.ndim:
        return values.to(found)
    if isinstance(some, Tensor):
        return values[some.to(values.device)].to(found).view(-1, *[1] * (found.ndim - 1))
    return values[some].to(found).view(1, -1, *[1] * (found.ndim - 2))
