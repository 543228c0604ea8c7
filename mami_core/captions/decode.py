"""Features → captions: likelihood, or mutual information of words and neuron. `caption` is the one public function.

The caption of a neuron with exemplars E is the c that maximises log p(c | E) − λ log p(c), their pointwise mutual
information for λ = 1 (Hernandez et al., 2022, arXiv 2201.11114, eq. 3). Both terms end with the stop word.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from mami_core.captions import beam
from mami_core.captions.captioner import Captioner, CaptionerState
from mami_core.captions.connecting import numbers_of
from mami_core.captions.diversity import different
from mami_core.captions.language_model import LanguageModel, LanguageState
from mami_core.captions.packing import on_cpu, packed
from mami_core.captions.prefixes import log_p_language
from mami_core.captions.texts import Texts
from mami_core.captions.vocabulary import PAD, SPECIAL_WORDS, START, STOP, UNKNOWN, Vocabulary
from mami_core.contracts import Beam
from mami_core.device import Arriving
from mami_core.errors import ConfigError, ContractError
from mami_core.subjects import Precision
from mami_core.subjects.precision import products
from mami_core.tokenizers import tokenize

Strategy = Literal["rerank", "while_decoding", "likelihood"]
Rules = Literal["mami", "milan"]

_Batch = tuple[Float[Tensor, "neurons k features"], Bool[Tensor, "neurons k"], Bool[Tensor, " neurons"]]
"""Features, present exemplars, and which rows are neurons (the others are filling)."""

_Found = tuple[
    Int64[Tensor, "neurons beams length"], Float[Tensor, "neurons beams"], Float[Tensor, "neurons beams"] | None
]
"""Captions, log p(c|E), and log p(c) where the search had to know it."""

_Ranked = tuple[Tensor, Tensor, Tensor, Tensor]
"""Of the best captions of every neuron: words, scores, log p(c|E) and log p(c)."""

_States = tuple[CaptionerState, LanguageState]

_ROWS_CPU, _ROWS_ACCELERATOR = 800, 12_800
"""Hypotheses that a batch holds by default: matrix products are no faster with more."""

_GROUP_CPU, _GROUP_ACCELERATOR = 16, 64
"""A batch is a multiple of so many neurons: with fewer rows, the bits of matrix products depend on their number."""


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
    window: float | None = None
    """Only captions compete whose log p(c | E) is at most so many nats below the likeliest's, both divided for length
    as above. Far below it, mutual information prefers what is merely badly said. None: all of the beam compete."""
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
        if not (math.isfinite(self.lm_weight) and math.isfinite(self.length_penalty)):
            raise ConfigError("lm_weight and length_penalty must be finite numbers.")
        if self.tidy and self.rules == "milan":
            raise ConfigError("tidy captions are not said by MILAN's rules: choose one of them.")
        if (self.window is not None and not self.window >= 0) or not 0 <= self.max_overlap <= 1:
            raise ConfigError(
                f"window is a number of nats from 0 and max_overlap a share, not {self.window} and {self.max_overlap}."
            )

    def changed(
        self,
        *,
        strategy: Strategy | None = None,
        beam_size: int | None = None,
        lm_weight: float | None = None,
        length_penalty: float | None = None,
        max_length: int | None = None,
        num_captions: int | None = None,
        precision: Precision | None = None,
    ) -> "DecodeConfig":
        """This with what is given; None leaves a setting as it is."""
        return replace(
            self,
            strategy=self.strategy if strategy is None else strategy,
            beam_size=self.beam_size if beam_size is None else beam_size,
            lm_weight=self.lm_weight if lm_weight is None else lm_weight,
            length_penalty=self.length_penalty if length_penalty is None else length_penalty,
            max_length=self.max_length if max_length is None else max_length,
            num_captions=self.num_captions if num_captions is None else num_captions,
            precision=self.precision if precision is None else precision,
        )


@torch.inference_mode()
def caption(
    captioner: Captioner,
    language_model: LanguageModel | None,
    features: Float[Tensor, "neurons k features"],
    present: Bool[Tensor, "neurons k"],
    config: DecodeConfig | None = None,
    *,
    told: Callable[[int], None] = lambda count: None,
) -> list[list[Beam]]:
    """The best captions of every neuron, best first, with their scores.

    A neuron's captions do not depend on the others: on a CPU not a bit of its scores does. `present` says which of its
    k exemplars are there; features are of any precision and may live elsewhere than the networks. Without a language
    model only the strategy "likelihood" is left, and log p(c) is not known. `told` hears of so many
    neurons more each time that some have been searched.

    Raises:
        ConfigError: if captioner and language model have different vocabularies, or there is none where it is needed.
        ContractError: if a neuron has no exemplar, or one whose features are not finite.
    """
    config = config or DecodeConfig()
    check_networks(captioner, language_model, config)
    _check(captioner, features, present)
    if not len(features):
        return []
    with products(config.precision):
        captioner = packed(captioner, config.precision)
        language_model = language_model and packed(language_model, config.precision)
        return _caption(captioner, language_model, features, present, config, told)


def _caption(
    captioner: Captioner,
    language_model: LanguageModel | None,
    features: Float[Tensor, "neurons k features"],
    present: Bool[Tensor, "neurons k"],
    config: DecodeConfig,
    told: Callable[[int], None] = lambda count: None,
) -> list[list[Beam]]:
    batches = _followed(_batches(captioner, features, present, config), told)
    found: Iterator[tuple[Tensor, Tensor, Tensor | None]]
    found = (_search(captioner, language_model, batch, config) for batch in batches)
    if on_cpu(captioner):
        found = iter([_joined(list(found), len(features))])  # the more captions, the more beginnings they share
    ranked: list[list[Beam]] = []
    arriving, texts = Arriving(), Texts(captioner.vocabulary)
    with texts:
        for each in found:
            arriving.put(_ranked(captioner.vocabulary, language_model, *each, config), texts.begin)
        arriving.finish()
        ranked = texts.finished()[: len(features)]
    if config.tidy and (silent := [row for row, beams in enumerate(ranked) if not beams]):
        # With next to no words, every tidy beginning of a caption may be a dead end.
        anyhow = _caption(captioner, language_model, features[silent], present[silent], replace(config, tidy=False))
        for row, beams in zip(silent, anyhow, strict=True):
            ranked[row] = beams
    return ranked


def attention(
    captioner: Captioner,
    features: Float[Tensor, "neurons k features"],
    present: Bool[Tensor, "neurons k"],
    captions: Sequence[str],
    *,
    max_length: int = 15,
) -> list[dict[str, Float[Tensor, "words k"]]]:
    """Which exemplars each word of a caption was read from, its stop word last; one entry a neuron.

    The weights of every attention sum to 1 over a neuron's exemplars. `max_length` is what the captions were decoded
    with: one that has so many words was cut, and has no stop word.
    """
    vocabulary = captioner.vocabulary
    length = min(max(len(tokenize(text, vocabulary.tokenizer)) for text in captions) + 1, max_length)
    words = torch.tensor([vocabulary.encode(text, length) for text in captions])
    with torch.inference_mode():
        device = captioner.feature_mean.device
        _, weights = captioner(features.to(device), present.to(device), words.to(device))
    lengths = (words != PAD).sum(1).tolist()
    return [{name: each[row, :end] for name, each in weights.items()} for row, end in enumerate(lengths)]


def check_networks(captioner: Captioner, language_model: LanguageModel | None, config: DecodeConfig) -> None:
    """Refuse two networks that do not belong together, or a strategy that needs a language model where there is none.

    Raises:
        ConfigError: saying which.
    """
    if language_model is None:
        if config.strategy != "likelihood":
            raise ConfigError(
                f"The strategy '{config.strategy}' weighs captions by a language model, and this captioner has none: "
                "choose 'likelihood'."
            )
    elif captioner.vocabulary != language_model.vocabulary:
        raise ConfigError("Captioner and language model have different vocabularies; train them together.")


def _check(
    captioner: Captioner, features: Float[Tensor, "neurons k features"], present: Bool[Tensor, "neurons k"]
) -> None:
    if features.shape[-1] != captioner.config.num_features:
        raise ContractError(
            f"The captioner reads {captioner.config.num_features} numbers an exemplar, these features have "
            f"{features.shape[-1]}: they come from another encoder."
        )
    if not present.any(dim=1).all():
        empty = (~present.any(dim=1)).nonzero().flatten().tolist()
        raise ContractError(f"Neurons without exemplars have no caption; leave out the rows {empty[:5]}.")
    for first in range(0, len(features), 256):
        some = slice(first, first + 256)
        odd = ((~features[some].isfinite()).any(dim=2) & present[some].to(features.device)).any(dim=1)
        if odd.any():
            row = first + int(odd.nonzero()[0])
            raise ContractError(f"The features of neuron {row} (in this batch) are not finite: expected numbers.")


def _followed(batches: Iterator[_Batch], told: Callable[[int], None]) -> Iterator[_Batch]:
    """Whoever takes the next batch has done the last."""
    for batch in batches:
        yield batch
        told(len(batch[0]))


def _batches(
    captioner: Captioner,
    features: Float[Tensor, "neurons k features"],
    present: Bool[Tensor, "neurons k"],
    config: DecodeConfig,
) -> Iterator[_Batch]:
    """The neurons in batches of one size, on the captioner's device."""
    device = captioner.feature_mean.device
    rows, group = (_ROWS_CPU, _GROUP_CPU) if on_cpu(captioner) else (_ROWS_ACCELERATOR, _GROUP_ACCELERATOR)
    wanted = config.batch_size or math.ceil(rows / config.beam_size)
    size = math.ceil(min(wanted, len(features)) / group) * group
    for some_features, some_present in zip(features.split(size), present.split(size), strict=True):
        missing = size - len(some_features)
        real = torch.arange(size, device=device) < len(some_features)
        some_features = torch.nn.functional.pad(some_features.to(device), (0, 0, 0, 0, 0, missing))
        # Filling has one exemplar of zeros: its arithmetic stays finite.
        some_present = torch.nn.functional.pad(some_present.to(device), (0, 0, 0, missing))
        yield some_features, some_present | (~real[:, None]), real


def _search(
    captioner: Captioner,
    language_model: LanguageModel | None,
    batch: _Batch,
    config: DecodeConfig,
) -> _Found:
    """The beams of a batch."""

    def likelihood(state: CaptionerState, words: Tensor) -> tuple[Tensor, tuple[Tensor, ...], CaptionerState]:
        log_probs, state, _ = captioner.step(state, words)
        return log_probs, (), state

    def information(states: _States, words: Tensor) -> tuple[Tensor, tuple[Tensor, ...], _States]:
        assert language_model is not None
        log_probs, state, _ = captioner.step(states[0], words)
        log_probs_language, state_language = language_model.step(states[1], words)
        gains = (log_probs_language * -config.lm_weight).add_(log_probs)
        return gains, (log_probs, log_probs_language), (state, state_language)

    features, present, real = batch
    on_a_cpu = on_cpu(captioner)
    search = partial(
        beam.search,
        config=_search_config(config, captioner.vocabulary),
        num_items=len(features),
        device=features.device,
        real=real,
        # An accelerator runs ahead of us: every look at its results is a wait.
        check_every=1 if on_a_cpu else 2,
        compact=1 if on_a_cpu else _GROUP_ACCELERATOR,
    )
    start = captioner.start(features, present)
    if config.strategy != "while_decoding" or language_model is None:
        found = search(likelihood, start, reorder=CaptionerState.reorder)
        return found.words, found.scores, None
    found = search(information, (start, language_model.start(len(features))), reorder=_reorder)
    log_p_caption, log_p_lm = found.parts
    return found.words, log_p_caption.masked_fill(found.scores.isneginf(), -math.inf), log_p_lm


def _joined(found: list[_Found], num_neurons: int) -> tuple[Tensor, Tensor, Tensor | None]:
    known = [log_p for _, _, log_p in found if log_p is not None]
    words, log_p_caption = torch.cat([words for words, _, _ in found]), torch.cat([log_p for _, log_p, _ in found])
    return words[:num_neurons], log_p_caption[:num_neurons], torch.cat(known)[:num_neurons] if known else None


def _reorder(states: _States, rows: Tensor, neurons: Tensor | None) -> _States:
    return states[0].reorder(rows, neurons), states[1].reorder(rows)


def _search_config(config: DecodeConfig, vocabulary: Vocabulary) -> beam.SearchConfig:
    search = partial(
        beam.SearchConfig, beam_size=config.beam_size, max_length=config.max_length, start=START, stop=STOP
    )
    if config.rules == "milan":
        # What follows the stop word are stop words, and padding is a word like others.
        return search(pad=STOP)
    return search(
        pad=PAD,
        never=(START, UNKNOWN),
        # A neuron that fires has something to say.
        min_length=1,
        connecting=numbers_of(vocabulary.words, first=len(SPECIAL_WORDS)) if config.tidy else None,
    )


def _ranked(
    vocabulary: Vocabulary,
    language_model: LanguageModel | None,
    words: Int64[Tensor, "neurons beams length"],
    log_p_caption: Float[Tensor, "neurons beams"],
    log_p_lm: Float[Tensor, "neurons beams"] | None,
    config: DecodeConfig,
) -> _Ranked:
    """The best `num_captions` of every neuron's beams, with their scores; log p(c) is NaN without a language model."""
    # Where the padding word may be said, what follows a caption needs a number that is no word's.
    padding = PAD
    if config.rules == "milan":
        padding = len(vocabulary)
        words = _padded(words, padding)
    if config.strategy == "rerank" and language_model is not None:
        log_p_lm = _language(language_model, words, padding)
    scores = log_p_caption if log_p_lm is None else log_p_caption - config.lm_weight * log_p_lm
    divisors = _divisors((words != padding).sum(-1), config)
    scores = scores / divisors
    if config.window is not None:
        likelihood = log_p_caption / divisors
        scores = scores.masked_fill(likelihood < likelihood.amax(1, keepdim=True) - config.window, -math.inf)
    if config.max_overlap < 1:
        scores = scores.masked_fill(
            ~different(
                words.masked_fill(words == padding, PAD),
                scores,
                num_kept=config.num_captions,
                max_overlap=config.max_overlap,
            ),
            -math.inf,
        )
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    scores, order = scores[:, : config.num_captions], order[:, : config.num_captions]
    words, log_p_caption = words.take_along_dim(order[..., None], 1), log_p_caption.gather(1, order)
    if log_p_lm is not None:
        log_p_lm = log_p_lm.gather(1, order)
    else:
        log_p_lm = _language(language_model, words, padding) if language_model else torch.full_like(scores, math.nan)
    return words, scores, log_p_caption, log_p_lm


def _divisors(num_words: Int64[Tensor, "neurons beams"], config: DecodeConfig) -> Float[Tensor, "neurons beams"]:
    # Not Tensor.pow: on a CPU its last bit depends on the element's place, and so on who else is in the batch.
    by_length = [max(count, 1) ** config.length_penalty for count in range(config.max_length + 1)]
    return torch.tensor(by_length, device=num_words.device)[num_words]


def _padded(words: Int64[Tensor, "neurons beams length"], padding: int) -> Int64[Tensor, "neurons beams length"]:
    """The captions with this padding after their first stop word."""
    is_stop = (words == STOP).long()
    return words.masked_fill(is_stop.cumsum(-1) - is_stop > 0, padding)


def _language(
    language_model: LanguageModel, words: Int64[Tensor, "neurons beams length"], padding: int
) -> Float[Tensor, "neurons beams"]:
    return log_p_language(language_model, words.flatten(0, 1), padding=padding).view(words.shape[:2])
