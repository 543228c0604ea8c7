"""Trees of words: which node follows a node and a word, for many at once."""

import torch
from jaxtyping import Int64
from torch import Tensor


def followed(
    keys: Int64[Tensor, " ways"], to: Int64[Tensor, " ways"], wanted: Int64[Tensor, "*of"], *, otherwise: int
) -> Int64[Tensor, "*of"]:
    """Where the ways lead that have the wanted keys (node · words + word; ascending); `otherwise` where none has."""
    places = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
    return to[places].masked_fill(keys[places] != wanted, otherwise)
