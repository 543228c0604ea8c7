"""Exemplars → features: the encoder's pyramid, averaged under each region."""

from mami_core.features.encoder import Encoder, EncoderConfig, Regions, load_encoder, numbers_of_forms, numbers_of_looks
from mami_core.features.halves import check_finite, from_halves, to_halves
from mami_core.features.pooling import place, pool, pool_batch

__all__ = [
    "Encoder",
    "EncoderConfig",
    "Regions",
    "check_finite",
    "from_halves",
    "load_encoder",
    "numbers_of_forms",
    "numbers_of_looks",
    "place",
    "pool",
    "pool_batch",
    "to_halves",
]
