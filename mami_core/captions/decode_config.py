"""How captions are searched and chosen."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from mami_core.errors import ConfigError
from mami_core.subjects import Precision

Strategy = Literal["rerank", "while_decoding", "likelihood"]
Rules = Literal["mami", "milan"]

_EVIDENCE = 6
"""Changes with how captions are held against exemplars (`captions.evidence`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeConfig:
    """How captions are searched. MILAN's numbers are the defaults."""

    strategy: Strategy = "rerank"
    """"rerank": the beam holds the likeliest captions, mutual information picks among them. "while_decoding": mutual
    information guides the beam itself, at the price of running the language model on every hypothesis. "likelihood":
    log p(c | E) alone."""
    beam_size: int = 50
    lm_weight: float = 0.2
    """λ: how much a caption pays for being likely for any neuron."""
    max_length: int = 15
    """The most words of a caption, its stop word counted; one that has not stopped by then is cut."""
    length_penalty: float = 0.0
    """Scores are divided by (number of words, the stop word counted)^length_penalty before captions are compared; 0
    leaves them as they are. Within the beam they never are."""
    tidy: bool = False
    """No word twice and no connecting word ("and", "of", "the") last. Connecting words may return, not at once."""
    as_taught: bool = True
    """Captions keep to what the captioner was taught: so many words in a row as it knows, start and stop counted, are
    some of a training description. Without effect on a captioner that does not know them, and by MILAN's rules."""
    window: float | None = None
    """Only captions compete whose log p(c | E) is at most so many nats below the likeliest's, both divided for length
    as above. Far below it, mutual information prefers what is merely badly said. None: all of the beam compete."""
    evidence_weight: float = 0.0
    """How much is added to a caption's score for being borne out by the exemplars (`captions.evidence`, 0 to 4); for
    captioners that were taught what exemplars show. Within the beam it counts for nothing."""
    max_overlap: float = 1.0
    """A caption is kept only if it shares at most this part of its words (of all words that either says) with every
    better one. Below 1 the kept captions are different, and may be fewer."""
    num_captions: int = 5
    """How many of the best captions are kept, at most."""
    batch_size: int | None = None
    """Neurons decoded together, rounded up to a multiple of 16; by default as many as keep the hardware busy. Does not
    change the result."""
    rules: Rules = "mami"
    """What may be said. "mami": at least one word, and no special ones. "milan": anything, as in MILAN's beam: also
    nothing, the start word, padding and unknown words, which count in the score and are left out of the text."""
    precision: Precision = "float32"
    """Of the matrix products: see `mami_core.subjects.Precision`. bfloat16 moves scores by some thousandths."""

    def __post_init__(self) -> None:
        for name, choices in (("strategy", Strategy), ("rules", Rules), ("precision", Precision)):
            if getattr(self, name) not in get_args(choices):
                raise ConfigError(f"{name} must be one of {get_args(choices)}, not {getattr(self, name)!r}.")
        for name in ("beam_size", "num_captions"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if self.max_length < 2:
            raise ConfigError(f"max_length must leave room for a word and its stop word, not {self.max_length}.")
        if self.batch_size is not None and self.batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, not {self.batch_size}.")
        if not all(map(math.isfinite, (self.lm_weight, self.length_penalty, self.evidence_weight))):
            raise ConfigError("lm_weight, length_penalty and evidence_weight must be finite numbers.")
        if self.tidy and self.rules == "milan":
            raise ConfigError("tidy captions are not said by MILAN's rules: choose one of them.")
        if (self.window is not None and not self.window >= 0) or not 0 <= self.max_overlap <= 1:
            raise ConfigError(
                f"window is a number of nats from 0 and max_overlap a share, not {self.window} and {self.max_overlap}."
            )

    def identity(self) -> dict[str, Any]:
        """What of this changes captions, as JSON values."""
        later = {"as_taught": True, "evidence_weight": 0.0}  # said only where they differ: runs begun before go on
        said = {
            name: value for name, value in asdict(self).items() if name != "batch_size" and later.get(name) != value
        }
        return said | ({"evidence": _EVIDENCE} if self.evidence_weight else {})

    @classmethod
    def identified(cls, said: Mapping[str, Any]) -> "DecodeConfig":
        """The configuration whose `identity` this is."""
        return cls(**{name: value for name, value in said.items() if name != "evidence"})

    def changed(
        self,
        *,
        strategy: Strategy | None = None,
        beam_size: int | None = None,
        lm_weight: float | None = None,
        length_penalty: float | None = None,
        evidence_weight: float | None = None,
        max_length: int | None = None,
        num_captions: int | None = None,
        as_taught: bool | None = None,
        precision: Precision | None = None,
    ) -> "DecodeConfig":
        """This with what is given; None leaves a setting as it is."""
        return replace(
            self,
            strategy=self.strategy if strategy is None else strategy,
            beam_size=self.beam_size if beam_size is None else beam_size,
            lm_weight=self.lm_weight if lm_weight is None else lm_weight,
            length_penalty=self.length_penalty if length_penalty is None else length_penalty,
            evidence_weight=self.evidence_weight if evidence_weight is None else evidence_weight,
            max_length=self.max_length if max_length is None else max_length,
            num_captions=self.num_captions if num_captions is None else num_captions,
            as_taught=self.as_taught if as_taught is None else as_taught,
            precision=self.precision if precision is None else precision,
        )
