"""How captions are chosen, from what a job's options say of it and what the captioner brings along."""

from mami_core.captions.decode_config import DecodeConfig
from mami_core.subjects import Precision

BY_DEFAULT = DecodeConfig(length_penalty=0.7)
"""Where neither the job nor the captioner says how."""

CHOOSING = ("strategy", "beam_size", "lm_weight", "length_penalty", "evidence_weight", "max_length")
"""Options by which a caption is chosen, as help lists them."""
_OPTIONS = (*CHOOSING, "num_captions")


def decode_of(
    job: object,
    own: DecodeConfig | None,
    *,
    by_default: DecodeConfig = BY_DEFAULT,
    precision: Precision | None = None,
) -> DecodeConfig:
    """What the job's options of these names say, those that it has; the rest as `own`, the captioner's way, if any."""
    as_taught = None if getattr(job, "as_taught", True) else False  # nobody need ask for what is so where it can be
    options = {name: getattr(job, name, None) for name in _OPTIONS}
    return (own or by_default).changed(**options, as_taught=as_taught, precision=precision)
