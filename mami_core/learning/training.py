"""Annotated neurons with their features → a trained language model and captioner.

Validation and test neurons leave no trace in what is learned: vocabulary, feature scale and both networks see the
training neurons alone; validation decides when to stop, test is for the caller.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from mami_core.captions.captioner import Captioner
from mami_core.captions.decode import DecodeConfig, caption
from mami_core.captions.evidence import Phrase
from mami_core.captions.language_model import LanguageModel
from mami_core.captions.taught import IN_A_ROW, Taught
from mami_core.captions.vocabulary import PAD, UNKNOWN, Vocabulary
from mami_core.errors import ConfigError, DescriptionsError
from mami_core.learning.descriptions import Neuron, Shown
from mami_core.learning.fit import Epoch, FitConfig, Share, TrainingState, fit
from mami_core.learning.losses import attention_loss, word_loss
from mami_core.learning.targets import Part, SplitConfig, TargetsConfig, targets, training_split
from mami_core.metrics.bleu import bleu
from mami_core.tokenizers import Tokenizer, tokenize

StopBy = Literal["likelihood", "bleu"]

NEURONS_AT_ONCE = 256
"""Whose features are looked at together where no step depends on how many there are."""
_VALIDATION_NEURONS = 512
"""At most so many neurons are captioned after each epoch; the first of the validation part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningConfig:
    """How the captioner and its language model are trained."""

    targets: TargetsConfig = field(default_factory=TargetsConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    fit: FitConfig = field(default_factory=FitConfig)
    attention_penalty: float = 1.0
    """Weight of the doubly stochastic attention loss beside the loss of the words."""
    label_smoothing: float = 0.0
    """How much of a word's probability the captioner learns to spread over all words (`losses.word_loss`)."""
    exemplar_dropout: float = 0.0
    """Share of a neuron's exemplars that each training step leaves out, at random; one always stays."""
    stop_by: StopBy = "likelihood"
    """What is best for the captioner: the mean log p of a word of the validation descriptions, or the BLEU of greedy
    captions, MILAN's way. BLEU on short captions is noise: 7, 3, 8, 15 from epoch to epoch."""
    max_length: int = 31
    """Words of a target that are learned, the stop word counted."""
    min_count: int = 1
    """How often a word must occur in the training descriptions to get into the vocabulary."""
    tokenizer: Tokenizer = "words"
    """How descriptions are cut into words: "spacy" keeps punctuation, as MILAN does."""
    in_a_row: int = IN_A_ROW
    """Captions keep to the sequences of so many words that training descriptions have, start and stop counted; 0: to
    none."""

    def __post_init__(self) -> None:
        if self.stop_by not in get_args(StopBy):
            raise ConfigError(f"stop_by must be one of {get_args(StopBy)}, not {self.stop_by!r}.")
        for name in ("label_smoothing", "exemplar_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} is a share from 0 to below 1, not {getattr(self, name)}.")
        if self.in_a_row < 0 or self.in_a_row == 1:
            raise ConfigError(f"in_a_row is a number of words from 2, or 0 for any, not {self.in_a_row}.")


@dataclass(frozen=True, eq=False, kw_only=True)
class Examples:
    """Annotated neurons as the captioner sees them."""

    neurons: tuple[Neuron, ...]
    descriptions: tuple[tuple[str, ...], ...]
    features: Float[Tensor, "neurons k features"]
    """Half precision is enough; a row without an exemplar may hold anything."""
    present: Bool[Tensor, "neurons k"]
    read_shown: Callable[[], Shown] | None = None
    """How true phrases are of the exemplars, where it is known; read when it is called, once that is wanted."""

    def __post_init__(self) -> None:
        without = (~self.present.any(1)).nonzero().flatten().tolist()
        if without:
            raise DescriptionsError(
                f"{len(without)} annotated neurons have no exemplar, such as {self.neurons[without[0]]}; "
                "leave them out."
            )


@dataclass(frozen=True, eq=False)
class Lessons:
    """What is learned from the training neurons, and what training is judged by."""

    examples: Examples
    config: LearningConfig
    device: torch.device | str = "cpu"

    @cached_property
    def parts(self) -> dict[Part, list[int]]:
        """The neurons' positions by part.

        Raises:
            DescriptionsError: a part that training needs is empty.
        """
        return training_split(self.examples.neurons, self.config.split)

    def texts(self, part: Part) -> list[tuple[int, str]]:
        """Every target of a part, with its neuron's position."""
        return [
            (position, text)
            for position in self.parts[part]
            for text in targets(self.examples.descriptions[position], self.config.targets)
        ]

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The words of the training descriptions."""
        texts = (text for _, text in self.texts("train"))
        return Vocabulary.build(texts, min_count=self.config.min_count, tokenizer=self.config.tokenizer)

    @cached_property
    def taught(self) -> Taught | None:
        """The sequences of words of the training descriptions, which captions keep to; None where they need not."""
        if not self.config.in_a_row:
            return None
        return Taught.by((text for _, text in self.texts("train")), self.vocabulary, in_a_row=self.config.in_a_row)

    @cached_property
    def shown(self) -> Shown | None:
        """How true phrases are of the exemplars, where it is known."""
        return self.examples.read_shown() if self.examples.read_shown else None

    @cached_property
    def phrases(self) -> dict[int, Phrase]:
        """Phrases of which that is known and that captions can say, by number, as captions say them; each once."""
        found: dict[str, int] = {}
        known = self.shown.phrases if self.shown else ()
        for number, phrase in enumerate(known):
            words = tokenize(phrase.text, self.config.tokenizer)
            if words and self.vocabulary.knows(phrase.text):
                found.setdefault(" ".join(words), number)
        return {number: Phrase(text, known[number].kind) for text, number in found.items()}

    @cached_property
    def positions(self) -> Int64[Tensor, " targets"]:
        """Each training target's neuron."""
        return torch.tensor([position for position, _ in self.texts("train")])

    @cached_property
    def words(self) -> Int64[Tensor, "targets length"]:
        """Each training target in numbers."""
        return self.encoded([text for _, text in self.texts("train")])

    def encoded(self, texts: Sequence[str]) -> Int64[Tensor, "targets length"]:
        """Targets in numbers, no longer than the longest."""
        words = torch.tensor([self.vocabulary.encode(text, self.config.max_length) for text in texts])
        return words[:, : int((words != PAD).sum(1).max())]

    @cached_property
    def lengths(self) -> Int64[np.ndarray, " targets"]:
        """How many words each training target has, the stop word counted."""
        return (self.words != PAD).sum(1).numpy()

    def batch(self, numbers: np.ndarray, whole: np.ndarray) -> tuple[Int64[Tensor, "targets length"], float]:
        """Words of some training targets, cut after the longest of the whole batch; what to divide their loss by.

        That is the number of words of so many targets on average. The batch's own number would give a word in a batch
        of short targets more weight than one in a batch of long ones.
        """
        longest = int(self.lengths[whole].max())
        return self.words[torch.from_numpy(numbers), :longest].to(self.device), len(whole) * float(self.lengths.mean())

    def feature_statistics(self) -> tuple[Float[Tensor, " features"], Float[Tensor, " features"]]:
        """Mean and standard deviation of every feature over the exemplars of the training neurons."""
        chosen = torch.tensor(self.parts["train"])
        count = 0
        total = squares = torch.zeros(self.examples.features.shape[-1], dtype=torch.float64)
        for some in chosen.split(NEURONS_AT_ONCE):
            vectors = self.examples.features[some][self.examples.present[some]].double()
            count, total, squares = count + len(vectors), total + vectors.sum(0), squares + vectors.square().sum(0)
        mean = total / count
        scale = (squares / count - mean.square()).clamp(min=0).sqrt()
        # A feature that never varies says nothing: it becomes 0 whatever it is divided by.
        return mean.float(), torch.where(scale > 1e-6, scale, torch.ones_like(scale)).float()


def fit_language_model(
    model: LanguageModel, lessons: Lessons, *, state: TrainingState | None = None, share: Share | None = None
) -> Iterator[Epoch]:
    """Train the language model on the training descriptions; the score is log p of a validation word."""
    validation = lessons.encoded([text for _, text in lessons.texts("validation")])

    def loss(numbers: np.ndarray, whole: np.ndarray) -> Tensor:
        words, num_words = lessons.batch(numbers, whole)
        return word_loss(model(words), words) / num_words

    def score() -> float:
        return mean_log_p(lambda _, words: model(words.to(lessons.device)), validation)

    config = lessons.config.fit
    return fit(model, len(lessons.words), loss, score, config, lengths=lessons.lengths, state=state, share=share)


def fit_captioner(
    captioner: Captioner,
    language_model: LanguageModel,
    lessons: Lessons,
    *,
    state: TrainingState | None = None,
    share: Share | None = None,
) -> Iterator[Epoch]:
    """Train the captioner; the score is of the validation neurons, as `LearningConfig.stop_by` says."""
    if state is None:
        mean, scale = lessons.feature_statistics()
        captioner.feature_mean.copy_(mean)
        captioner.feature_scale.copy_(scale)
    by_likelihood = lessons.config.stop_by == "likelihood"
    score = _likelihood(captioner, lessons) if by_likelihood else _greedy_bleu(captioner, language_model, lessons)
    loss, lengths, config = captioner_loss(captioner, lessons), lessons.lengths, lessons.config.fit
    return fit(captioner, len(lengths), loss, score, config, lengths=lengths, state=state, share=share)


def _likelihood(captioner: Captioner, lessons: Lessons) -> Callable[[], float]:
    examples, texts = lessons.examples, lessons.texts("validation")
    words, positions = lessons.encoded([text for _, text in texts]), torch.tensor([position for position, _ in texts])

    def log_probs(rows: Tensor, words: Tensor) -> Tensor:
        at = positions[rows]
        features, present = examples.features[at].to(lessons.device), examples.present[at].to(lessons.device)
        return captioner(features.float(), present, words.to(lessons.device))[0]

    return lambda: mean_log_p(log_probs, words)


def _greedy_bleu(captioner: Captioner, language_model: LanguageModel, lessons: Lessons) -> Callable[[], float]:
    examples, config = lessons.examples, lessons.config
    greedy = DecodeConfig(strategy="likelihood", beam_size=1, num_captions=1, max_length=config.max_length)
    chosen = torch.tensor(lessons.parts["validation"][:_VALIDATION_NEURONS])

    def score() -> float:
        found = caption(captioner, language_model, examples.features[chosen], examples.present[chosen], greedy)
        return bleu([beams[0].caption for beams in found], [examples.descriptions[row] for row in chosen.tolist()])

    return score


@torch.inference_mode()
def mean_log_p(log_probs: Callable[[Tensor, Tensor], Tensor], words: Int64[Tensor, "targets length"]) -> float:
    """Mean log p of the words of some targets; `log_probs` is told the numbers of some of them, and their words.

    Words outside the vocabulary count for nothing: training never saw one, and only makes them less likely.
    """
    lengths = (words != PAD).sum(1)
    total = 0.0
    # Targets of one length together, so that little is padded.
    for rows in lengths.argsort(stable=True).split(NEURONS_AT_ONCE):
        some = words[rows, : int(lengths[rows].max())]
        found = log_probs(rows, some)
        total -= float(word_loss(found, some.masked_fill(some == UNKNOWN, PAD).to(found.device)))
    return total / max(1, int(((words != PAD) & (words != UNKNOWN)).sum()))


def captioner_loss(captioner: Captioner, lessons: Lessons) -> Callable[[np.ndarray, np.ndarray], Tensor]:
    """The loss of a part of a batch; over the parts of a batch it adds up to that of the whole."""
    examples = lessons.examples

    def loss(numbers: np.ndarray, whole: np.ndarray) -> Tensor:
        words, num_words = lessons.batch(numbers, whole)
        at = lessons.positions[torch.from_numpy(numbers)]
        present = examples.present[at].to(lessons.device)
        if lessons.config.exemplar_dropout:
            present = some_of(present, 1 - lessons.config.exemplar_dropout)
        log_probs, weights = captioner(examples.features[at].to(lessons.device).float(), present, words)
        penalty = attention_loss(weights, words, present) / len(whole)
        of_words = word_loss(log_probs, words, lessons.config.label_smoothing)
        return of_words / num_words + lessons.config.attention_penalty * penalty

    return loss


def some_of(present: Bool[Tensor, "targets k"], share: float) -> Bool[Tensor, "targets k"]:
    """Each exemplar that is there with this probability, and at least one of every target's."""
    drawn = torch.rand(present.shape, device=present.device).masked_fill(~present, 2)
    return (drawn < share) | (present & (drawn == drawn.amin(1, keepdim=True)))
