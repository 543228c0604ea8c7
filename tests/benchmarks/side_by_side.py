"""Several captioners trained side by side on one device: the same steps as `mami_core.learning`, many at a time.

One captioner leaves a GPU idle: a step is some thousand tiny kernels. Here every captioner's step is recorded once (a
CUDA graph for each of two lengths of batches) and replayed on a stream of its own, so that their kernels overlap. On a
CPU the same steps run one after the other.
"""

import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from mami_core.captions.captioner import Captioner
from mami_core.learning.fit import FitConfig, batches_of
from mami_core.learning.losses import attention_loss, word_loss
from mami_core.learning.targets import Part
from mami_core.learning.training import Lessons, mean_log_p, some_of
from tests.benchmarks.ways import Way

_SHORT = 0.7
"""The shorter of two recorded lengths is this quantile of the batches' lengths."""


@dataclass(eq=False)
class Pupil:
    """One captioner on its way."""

    way: Way
    seed: int
    lessons: Lessons
    captioner: Captioner
    best_score: float = -float("inf")
    best_epoch: int = 0
    scores: list[float] = field(default_factory=list)
    _best: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.device = next(self.captioner.parameters()).device
        config = self.lessons.config.fit
        self._features, self._present, self._words, self._positions = _on_device(self.lessons, self.device)
        self._mean_length = float(self.lessons.lengths.mean())
        self._optimizer = torch.optim.AdamW(
            self.captioner.parameters(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            foreach=True,
            capturable=self.device.type == "cuda",
        )
        self._numbers = torch.zeros(config.batch_size, dtype=torch.int64, device=self.device)
        self._recorded: dict[int, torch.cuda.CUDAGraph | None] = {}
        self.stream = torch.cuda.Stream() if self.device.type == "cuda" else None

    def learn(self, numbers: Tensor, length: int) -> None:
        """One step, on targets none of which is longer than `length`."""
        if self.stream is None:
            self._numbers.copy_(numbers)
            self._step(length)
            return
        with torch.cuda.stream(self.stream):
            self._numbers.copy_(numbers, non_blocking=True)
            if length not in self._recorded:
                self._recorded[length] = self._record(length)
            if (recorded := self._recorded[length]) is None:
                self._step(length)
            else:
                recorded.replay()

    def _step(self, length: int) -> None:
        config = self.lessons.config
        self.captioner.train()
        self._optimizer.zero_grad(set_to_none=True)
        words, at = self._words[self._numbers, :length], self._positions[self._numbers]
        present = self._present[at]
        if config.exemplar_dropout:
            present = some_of(present, 1 - config.exemplar_dropout)
        log_probs, weights = self.captioner(self._features[at].float(), present, words)
        count = len(self._numbers)
        loss = word_loss(log_probs, words, config.label_smoothing) / (count * self._mean_length)
        (loss + config.attention_penalty * attention_loss(weights, words, present) / count).backward()
        self._optimizer.step()

    def _record(self, length: int) -> torch.cuda.CUDAGraph | None:
        """The step as a graph; none where it cannot be recorded, and then it runs kernel by kernel."""
        # Twice for real: libraries and the optimiser make what they need before it can be recorded.
        for _ in range(2):
            self._step(length)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self.stream):
                self._step(length)
        except RuntimeError as error:
            print(f"{self.way.name}: not recorded: {error}", file=sys.stderr, flush=True)
            torch.cuda.synchronize()
            return None
        return graph

    @property
    def is_done(self) -> bool:
        """Whether no epoch follows."""
        config = self.lessons.config.fit
        return len(self.scores) >= config.max_epochs or len(self.scores) - self.best_epoch >= config.patience

    def look(self) -> None:
        """Where it stands after an epoch; the best epoch's weights are kept."""
        self.captioner.eval()
        score = self.log_p("validation")[0]
        self.scores.append(score)
        if score > self.best_score:
            self.best_score, self.best_epoch = score, len(self.scores)
            self._best = {name: tensor.clone() for name, tensor in self.captioner.state_dict().items()}

    def log_p(self, part: Part) -> tuple[float, dict[int, tuple[float, int]]]:
        """Mean log p of a word of a part's targets; and for each neuron the sum and the number of words."""
        texts = self.lessons.texts(part)
        words, positions = self.lessons.encoded([text for _, text in texts]), [position for position, _ in texts]
        at = torch.tensor(positions, device=self.device)
        of_neuron: dict[int, tuple[float, int]] = {}

        def log_probs(rows: Tensor, some: Tensor) -> Tensor:
            here, some = at[rows.to(self.device)], some.to(self.device)
            found = self.captioner(self._features[here].float(), self._present[here], some)[0]
            said = some > 0
            sums = ((found.gather(-1, some[..., None])[..., 0] * said).sum(1)).tolist()
            for row, total, count in zip(rows.tolist(), sums, said.sum(1).tolist(), strict=True):
                before = of_neuron.get(positions[row], (0.0, 0))
                of_neuron[positions[row]] = (before[0] + total, before[1] + count)
            return found

        return mean_log_p(log_probs, words), of_neuron

    def graduate(self) -> Captioner:
        """The captioner with its best epoch's weights."""
        self._recorded.clear()
        self.captioner.load_state_dict(self._best)
        return self.captioner.eval()


@functools.lru_cache(maxsize=8)
def _on_device(lessons: Lessons, device: torch.device) -> tuple[Tensor, ...]:
    """What all pupils with the same lessons share."""
    examples = lessons.examples
    return tuple(each.to(device) for each in (examples.features, examples.present, lessons.words, lessons.positions))


@functools.lru_cache(maxsize=8)
def _statistics(lessons: Lessons) -> tuple[Tensor, Tensor]:
    return lessons.feature_statistics()


def pupil(way: Way, seed: int, lessons: Lessons, device: torch.device) -> Pupil:
    """A captioner before its first step."""
    torch.manual_seed(seed)
    captioner = Captioner(way.captioner(lessons.examples.features.shape[-1]), lessons.vocabulary)
    mean, scale = _statistics(lessons)
    captioner.feature_mean.copy_(mean)
    captioner.feature_scale.copy_(scale)
    return Pupil(way, seed, lessons, captioner.to(device))


def train(pupils: Sequence[Pupil], tell: Callable[[str], None]) -> None:
    """Epoch by epoch, all together, until each has had its patience."""
    plans = {each: _plan(each) for each in pupils}
    while going := [each for each in pupils if not each.is_done]:
        orders = [list(plans[each](len(each.scores) + 1)) for each in going]
        _wait()
        for step in range(max(len(order) for order in orders)):
            for each, order in zip(going, orders, strict=True):
                if step < len(order):
                    each.learn(*order[step])
        _wait()
        for each in going:
            each.look()
        _wait()
        tell(f"epoch {len(going[0].scores)}: " + ", ".join(f"{each.scores[-1]:.3f}" for each in going))


def _wait() -> None:
    """Streams do not wait for each other by themselves."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _plan(each: Pupil) -> Callable[[int], Iterator[tuple[Tensor, int]]]:
    """An epoch's batches, each with the recorded length that it needs; what does not fill a batch is left out."""
    lengths = each.lessons.lengths
    own = FitConfig(batch_size=each.lessons.config.fit.batch_size, seed=each.seed)

    def whole(epoch: int) -> list[np.ndarray]:
        found = batches_of(len(lengths), own, epoch, lengths=lengths)
        return [some for some in found if len(some) == own.batch_size]

    short = int(np.quantile([int(lengths[some].max()) for some in whole(1)], _SHORT))
    longest = int(lengths.max())

    def batches(epoch: int) -> Iterator[tuple[Tensor, int]]:
        for some in whole(epoch):
            yield torch.from_numpy(some).to(each.device), short if lengths[some].max() <= short else longest

    return batches
