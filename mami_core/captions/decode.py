"""Features → captions: likelihood, or mutual information of words and neuron. `caption` is the one public function.

The caption of a neuron with exemplars E is the c that maximises log p(c | E) − λ log p(c), their pointwise mutual
information for λ = 1 (Hernandez et al., 2022, arXiv 2201.11114, eq. 3). Both terms end with the stop word.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mami_core.captions import beam
from mami_core.captions.captioner import Captioner, CaptionerState
from mami_core.captions.connecting import numbers_of
from mami_core.captions.decode_config import DecodeConfig, Rules, Strategy
from mami_core.captions.evidence import Weighed
from mami_core.captions.language_model import LanguageModel, LanguageState
from mami_core.captions.packing import on_cpu, packed
from mami_core.captions.ranking import Found, ranked
from mami_core.captions.texts import Texts
from mami_core.captions.vocabulary import PAD, SPECIAL_WORDS, START, STOP, UNKNOWN, Vocabulary
from mami_core.contracts import Beam
from mami_core.device import Arriving, to_device
from mami_core.errors import ConfigError, ContractError
from mami_core.subjects.precision import products
from mami_core.tokenizers import tokenize

__all__ = ["DecodeConfig", "Rules", "Strategy", "attention", "caption", "check_networks"]

_Batch = tuple[Float[Tensor, "neurons k features"], Bool[Tensor, "neurons k"], Bool[Tensor, " neurons"]]
"""Features, present exemplars, and which rows are neurons (the others are filling)."""

_States = tuple[CaptionerState, LanguageState]

_ROWS_CPU, _ROWS_ACCELERATOR = 800, 51_200
"""Hypotheses that a batch holds by default. On a CPU products are no faster with more; for an accelerator the host
must find time to start a batch's kernels, however large they are."""

_NUMBERS_ACCELERATOR = 1 << 28
"""Hypotheses times words, at most: 1 GiB."""

_GROUP_CPU, _GROUP_ACCELERATOR = 16, 64
"""A batch is a multiple of so many neurons: with fewer rows, the bits of matrix products depend on their number."""


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
    batches = _followed(_batches(captioner, features, present, config), len(features), told)
    found: Iterator[Found] = (_search(captioner, language_model, batch, config) for batch in batches)
    if on_cpu(captioner):
        found = iter([_joined(list(found), len(features))])  # the more captions, the more beginnings they share
    with Texts(captioner.vocabulary) as texts:
        with Arriving() as arriving:
            for each in found:
                arriving.put(ranked(captioner.vocabulary, language_model, each, config), texts.begin)
        captions = texts.finished()[: len(features)]
    if config.tidy and (silent := [row for row, beams in enumerate(captions) if not beams]):
        # With next to no words, every tidy beginning of a caption may be a dead end.
        anyhow = _caption(captioner, language_model, features[silent], present[silent], replace(config, tidy=False))
        for row, beams in zip(silent, anyhow, strict=True):
            captions[row] = beams
    return captions


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
    if config.evidence_weight and captioner.evidence is None:
        raise ConfigError(
            "evidence_weight holds captions against what exemplars show, which this captioner was not taught: expected "
            "0, or a captioner trained on the output of mami annotate."
        )
    if language_model is None and config.strategy != "likelihood":
        raise ConfigError(
            f"The strategy '{config.strategy}' weighs captions by a language model, and this captioner has none: "
            "choose 'likelihood'."
        )
    if language_model is not None and captioner.vocabulary != language_model.vocabulary:
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
        odd = (_odd(features[some]).any(dim=2) & present[some].to(features.device)).any(dim=1)
        if odd.any():
            row = first + int(odd.nonzero()[0])
            raise ContractError(f"The features of neuron {row} (in this batch) are not finite: expected numbers.")


def _odd(features: Float[Tensor, "neurons k features"]) -> Bool[Tensor, "neurons k features"]:
    if features.dtype != torch.float16:
        return ~features.isfinite()
    return features.view(torch.int16).bitwise_and(0x7C00) == 0x7C00  # the exponent says it, several times as fast


def _followed(batches: Iterator[_Batch], num_neurons: int, told: Callable[[int], None]) -> Iterator[_Batch]:
    """Whoever takes the next batch has done the last; its filling is no neurons."""
    left = num_neurons
    for batch in batches:
        yield batch
        told(min(len(batch[0]), left))
        left -= len(batch[0])


def _batches(
    captioner: Captioner,
    features: Float[Tensor, "neurons k features"],
    present: Bool[Tensor, "neurons k"],
    config: DecodeConfig,
) -> Iterator[_Batch]:
    """The neurons in batches of one size, on the captioner's device."""
    device = captioner.feature_mean.device
    rows, group = (_ROWS_CPU, _GROUP_CPU)
    if not on_cpu(captioner):
        rows = min(_ROWS_ACCELERATOR, _NUMBERS_ACCELERATOR // len(captioner.vocabulary))
        group = _GROUP_ACCELERATOR
    wanted = config.batch_size or math.ceil(rows / config.beam_size)
    size = math.ceil(min(wanted, len(features)) / group) * group
    for some_features, some_present in zip(features.split(size), present.split(size), strict=True):
        missing = size - len(some_features)
        real = torch.arange(size, device=device) < len(some_features)
        some_features = torch.nn.functional.pad(to_device(some_features, device), (0, 0, 0, 0, 0, missing))
        # Filling has one exemplar of zeros: its arithmetic stays finite.
        some_present = torch.nn.functional.pad(to_device(some_present, device), (0, 0, 0, missing))
        yield some_features, some_present | (~real[:, None]), real


def _search(
    captioner: Captioner,
    language_model: LanguageModel | None,
    batch: _Batch,
    config: DecodeConfig,
) -> Found:
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
    informed = language_model is not None and config.strategy == "while_decoding"
    step: beam.Step[Any] = information if informed else likelihood
    reorder: beam.Reorder[Any] = _reorder if informed else CaptionerState.reorder
    start: Any = captioner.start(features, present)
    if informed:
        start = (start, language_model.start(len(features)))
    on_a_cpu = on_cpu(captioner)
    if captioner.taught is not None and config.as_taught and config.rules != "milan":
        step, start, reorder = captioner.taught.kept_to(
            step, start, reorder, num_items=len(features), by_bits=not on_a_cpu
        )
    found = beam.search(
        step,
        start,
        _search_config(config, captioner.vocabulary),
        num_items=len(features),
        reorder=reorder,
        device=features.device,
        real=real,
        compact=1 if on_a_cpu else _GROUP_ACCELERATOR,
    )
    weighed = captioner.evidence.weigh(features, present, found.words) if captioner.evidence is not None else None
    if not informed:
        return Found(found.words, found.scores, None, weighed)
    log_p_caption, log_p_lm = found.parts
    return Found(found.words, log_p_caption.masked_fill(found.scores.isneginf(), -math.inf), log_p_lm, weighed)


def _joined(found: list[Found], num_neurons: int) -> Found:
    def whole(parts: Iterable[Tensor]) -> Tensor:
        return torch.cat(list(parts))[:num_neurons]

    by_language = [each.log_p_language for each in found if each.log_p_language is not None]
    weighed = [each.evidence for each in found if each.evidence is not None]
    return Found(
        words=whole(each.words for each in found),
        log_p_caption=whole(each.log_p_caption for each in found),
        log_p_language=whole(by_language) if by_language else None,
        evidence=Weighed(*map(whole, zip(*weighed, strict=True))) if weighed else None,
    )


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
