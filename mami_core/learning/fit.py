"""Training with early stopping, as an iterator over epochs: the caller shows them, keeps them, or stops.

Everything random in an epoch follows from (seed, epoch, step), and an epoch's record holds the whole state after it.
So a run that goes on from any epoch's record ends, on a CPU, with the same bits as one that was never interrupted.
Several workers each take their part of every batch; their gradients are added (`Reduce`), so that the step is that of
the whole batch.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor, nn

from mami_core.errors import ConfigError

Reduce = Callable[[Sequence[Tensor]], None]
"""Adds every worker's tensors, in place."""

_SORTED_BATCHES = 16
"""Targets are sorted by length within so many batches' worth: more leaves less padding and less chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitConfig:
    """How long and in which steps to train. MILAN's numbers are the defaults."""

    batch_size: int = 64
    """Targets a step, over all workers."""
    max_epochs: int = 100
    patience: int = 4
    """Epochs without a better score after which training ends, with the best epoch's weights."""
    learning_rate: float = 1e-3
    decay: bool = False
    """Let the learning rate fall in a straight line, to nothing at the end of `max_epochs`."""
    weight_decay: float = 1e-2
    """AdamW's (Loshchilov and Hutter, 2019); both are torch's defaults."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_epochs", "patience"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected at least 1, got {getattr(self, name)}.")
        if not self.learning_rate > 0 or self.weight_decay < 0:
            raise ConfigError(
                f"expected learning_rate > 0 and weight_decay ≥ 0, got {self.learning_rate} and {self.weight_decay}."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Which part of every batch this worker takes, and how gradients come together. By default all of it."""

    rank: int = 0
    world: int = 1
    reduce: Reduce | None = None

    def of(self, batch: np.ndarray) -> np.ndarray:
        """This worker's part of a batch."""
        return batch[self.rank :: self.world]


@dataclass(frozen=True, slots=True)
class TrainingState:
    """All that the next epoch follows from."""

    epoch: int
    """Epochs that are done."""
    weights: dict[str, Tensor]
    moments: dict[str, Tensor]
    """The optimiser's, "NAME/exp_avg", "NAME/exp_avg_sq" and "NAME/step"."""
    best_weights: dict[str, Tensor]
    best_score: float
    best_epoch: int

    def ended(self, config: FitConfig) -> bool:
        """Whether no epoch follows."""
        return self.epoch >= config.max_epochs or self.epoch - self.best_epoch >= config.patience


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch's outcome."""

    loss: float
    """Mean loss a step."""
    score: float
    """On the validation neurons; higher is better."""
    state: TrainingState = field(repr=False)

    @property
    def number(self) -> int:
        """From 1."""
        return self.state.epoch

    @property
    def is_best(self) -> bool:
        """Whether no epoch was better so far."""
        return self.state.best_epoch == self.state.epoch


def fit(
    network: nn.Module,
    num_targets: int,
    loss: Callable[[np.ndarray, np.ndarray], Tensor],
    score: Callable[[], float],
    config: FitConfig,
    *,
    lengths: Int64[np.ndarray, " targets"] | None = None,
    state: TrainingState | None = None,
    share: Share | None = None,
) -> Iterator[Epoch]:
    """Train `network` in place; when the iterator ends, it has the weights of its best epoch.

    Args:
        network: What is trained.
        num_targets: Targets have numbers from 0; an epoch sees each once, in an order that follows from the seed.
        loss: (this worker's part of a batch, the whole batch) → this worker's share of the whole batch's loss.
        score: Of the network as it is, in eval mode; higher is better.
        config: How long and in which steps.
        lengths: Of the targets. If given, targets of about the same length share a batch, so that less is padded.
        state: Go on from here.
        share: This worker's part of the work.
    """
    share = share or Share()
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, foreach=True
    )
    if state is not None:
        network.load_state_dict(state.weights)
        _set_moments(optimizer, network, state.moments)
    while state is None or not state.ended(config):
        epoch = 1 if state is None else state.epoch + 1
        batches = batches_of(num_targets, config, epoch, lengths=lengths)
        mean_loss = _train_epoch(network, optimizer, batches, loss, config, share, epoch)
        network.eval()
        reached = _score(network, score, share)
        state = _state_after(network, optimizer, state, epoch, reached)
        yield Epoch(mean_loss, reached, state)
    network.load_state_dict(state.best_weights)
    network.eval()


def batches_of(
    num_targets: int, config: FitConfig, epoch: int, *, lengths: Int64[np.ndarray, " targets"] | None = None
) -> list[Int64[np.ndarray, " batch"]]:
    """An epoch's batches: every target once, in an order that follows from the seed and the epoch.

    With `lengths`, some batches' worth of targets at a time are sorted by length, and the batches then shuffled.
    """
    rng = np.random.default_rng([config.seed, epoch])
    order = rng.permutation(num_targets)
    if lengths is not None:
        runs = np.split(
            order, range(_SORTED_BATCHES * config.batch_size, num_targets, _SORTED_BATCHES * config.batch_size)
        )
        order = np.concatenate([run[np.argsort(lengths[run], kind="stable")] for run in runs])
    batches = np.split(order, range(config.batch_size, num_targets, config.batch_size))
    return [batches[number] for number in rng.permutation(len(batches))]


def _train_epoch(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[np.ndarray],
    loss: Callable[[np.ndarray, np.ndarray], Tensor],
    config: FitConfig,
    share: Share,
    epoch: int,
) -> float:
    network.train()
    total = torch.zeros((), device=_device(network))
    for step, batch in enumerate(batches):
        if config.decay:
            left = 1 - (epoch - 1 + step / len(batches)) / config.max_epochs
            optimizer.param_groups[0]["lr"] = config.learning_rate * left
        optimizer.zero_grad(set_to_none=True)
        mine = share.of(batch)
        if len(mine):  # the last batch may have fewer targets than there are workers
            with torch.random.fork_rng(devices=_cuda_devices(network)):
                # Dropout draws from torch's own generator; seeded a step, it does not depend on what came before.
                torch.manual_seed(_mixed(config.seed, epoch, step, share.rank))
                of_share = loss(mine, batch)
                of_share.backward()
            total += of_share.detach()
        _step(network, optimizer, share)
    if share.reduce is not None:
        share.reduce([total])
    return float(total) / max(len(batches), 1)


def _step(network: nn.Module, optimizer: torch.optim.Optimizer, share: Share) -> None:
    if share.reduce is not None:
        for parameter in network.parameters():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        share.reduce([parameter.grad for parameter in network.parameters() if parameter.grad is not None])
    optimizer.step()


def _score(network: nn.Module, score: Callable[[], float], share: Share) -> float:
    """The first worker's word counts: were the last bits different on another, only one of them might stop."""
    reached = score() if share.rank == 0 else 0.0
    if share.reduce is None:
        return reached
    agreed = torch.tensor([reached], dtype=torch.float64, device=_device(network))
    share.reduce([agreed])
    return float(agreed)


def _device(network: nn.Module) -> torch.device:
    return next(network.parameters()).device


def _mixed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _cuda_devices(network: nn.Module) -> list[int]:
    device = _device(network)
    return [device.index or 0] if device.type == "cuda" else []


def _state_after(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    before: TrainingState | None,
    epoch: int,
    score: float,
) -> TrainingState:
    weights = _copied(network.state_dict())
    better = before is None or score > before.best_score
    return TrainingState(
        epoch=epoch,
        weights=weights,
        moments=_moments(optimizer, network),
        best_weights=weights if better else before.best_weights,
        best_score=score if better else before.best_score,
        best_epoch=epoch if better else before.best_epoch,
    )


def _copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies: the live tensors change with the next step, and with them what is thought to be the best."""
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}


def _moments(optimizer: torch.optim.Optimizer, network: nn.Module) -> dict[str, Tensor]:
    of_parameter = optimizer.state
    return _copied(
        {
            f"{name}/{moment}": of_parameter[parameter][moment]
            for name, parameter in network.named_parameters()
            for moment in of_parameter.get(parameter, {})
        }
    )


def _set_moments(optimizer: torch.optim.Optimizer, network: nn.Module, moments: dict[str, Tensor]) -> None:
    for name, parameter in network.named_parameters():
        found = {moment.removeprefix(f"{name}/"): moment for moment in moments if moment.startswith(f"{name}/")}
        optimizer.state[parameter] = {
            short: moments[full].clone().to("cpu" if short == "step" else parameter.device)
            for short, full in found.items()
        }
