"""What every Ray Train worker runs: all fits, with a checkpoint in the run's storage after each epoch.

A worker that starts, first or again, goes on from the latest checkpoint, and from whichever it is ends with the same
weights: an epoch follows from the state before it and the seed alone.
"""

import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from jobs.engine.items import ERRORS
from jobs.engine.pool import is_one_machine
from jobs.engine.runtime import set_up_logging
from jobs.storage import redact, storage_for
from jobs.training.annotated import Source
from mami_core import contracts
from mami_core.captions.captioner import Captioner, CaptionerConfig
from mami_core.captions.decode import DecodeConfig
from mami_core.captions.language_model import LanguageModel, LanguageModelConfig
from mami_core.errors import ConfigError, IncompleteRunError, MamiError, is_bad_input
from mami_core.features import EncoderConfig
from mami_core.learning import checkpoint
from mami_core.learning.annotated_features import examples_of
from mami_core.learning.checkpoint import Trained
from mami_core.learning.evidence_fit import first_evidence, fit_evidence
from mami_core.learning.fit import Epoch, Share, TrainingState
from mami_core.learning.training import LearningConfig, Lessons, fit_captioner, fit_language_model

logger = logging.getLogger(__name__)

_REFUSED = f"{ERRORS}/training.txt"
"""Why a worker could not begin, where no second try would help."""


DECODE = DecodeConfig(lm_weight=0.0, length_penalty=1.0, tidy=True)
"""How a captioner that is trained here says to be decoded: what agreed best with the descriptions of neurons that
training never saw (docs/captions.md)."""
BY_EVIDENCE = DecodeConfig(lm_weight=0.2, length_penalty=1.3, window=0.9, evidence_weight=4.0, tidy=True)
"""The same where it knows what exemplars show: the truest of several on units of EfficientNet-Lite0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSpec:
    """What every training worker needs to know; small, since it is sent to each."""

    name: str
    """Of the run: Ray Train resumes a run of the same name, so it follows from the configuration."""
    url: str
    """The output folder."""
    source: Source
    features: tuple[str, ...]
    num_features: int
    encoder: EncoderConfig
    encoder_id: str
    captioner: CaptionerConfig
    language_model: LanguageModelConfig
    learning: LearningConfig
    seed: int
    notes: dict[str, Any] = field(default_factory=dict)


def train_on_ray(spec: TrainSpec, *, num_workers: int, num_gpus: float, num_cpus: float, max_failures: int) -> None:
    """Fit over Ray Train workers; at the end the checkpoint's files lie in the output folder.

    Raises:
        IncompleteRunError: training failed more often than allowed; the same command resumes it.
        ConfigError: a worker found that what it was given cannot work.
    """
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    api: Any = ray.train  # to a type checker each of its names is one of two versions

    per_worker = {"CPU": num_cpus} | ({"GPU": num_gpus} if num_gpus else {})
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"spec": spec},
        torch_config=TorchConfig(backend="nccl" if num_gpus else "gloo"),
        scaling_config=api.ScalingConfig(
            num_workers=num_workers, use_gpu=num_gpus > 0, resources_per_worker=per_worker
        ),
        run_config=api.RunConfig(
            name=spec.name,
            storage_path=f"{spec.url}/_work",
            failure_config=api.FailureConfig(max_failures=max_failures),
            checkpoint_config=api.CheckpointConfig(num_to_keep=2),
        ),
    )
    storage = storage_for(spec.url)
    storage.delete(_REFUSED)
    try:
        trainer.fit()
    except Exception as error:  # Ray Train has several of its own, and they wrap those of the worker
        raise IncompleteRunError(f"Training stopped: {error}. Run the same command again to resume.") from error
    if storage.exists(_REFUSED):
        reason = storage.read(_REFUSED).decode()
        storage.delete(_REFUSED)
        raise ConfigError(f"A training worker: {reason}")


def train_worker(config: dict[str, TrainSpec]) -> None:
    """Runs in every worker."""
    import ray.train
    from ray.train.torch import get_device

    set_up_logging()
    spec, context = config["spec"], ray.train.get_context()
    device = get_device()
    world = context.get_world_size()
    share = Share(rank=context.get_world_rank(), world=world, reduce=_add_up if world > 1 else None)
    lessons = _lessons(spec, device, share)
    if lessons is None:
        return  # Ray Train would start a worker that raises again and again.
    torch.manual_seed(spec.seed)
    language_model = LanguageModel(spec.language_model, lessons.vocabulary).to(device)
    captioner = Captioner(spec.captioner, lessons.vocabulary, lessons.taught).to(device)
    fits: dict[str, Callable[[TrainingState | None], Iterator[Epoch]]] = {
        "language model": lambda state: fit_language_model(language_model, lessons, state=state, share=share),
        "captioner": lambda state: fit_captioner(captioner, language_model, lessons, state=state, share=share),
    }
    evidence = first_evidence(lessons, dropout=spec.captioner.dropout, encoder=spec.encoder)
    if evidence is not None:
        evidence = evidence.to(device)
        fits["evidence"] = lambda state: fit_evidence(evidence, lessons, state=state, share=share)
    states = _resumed(fits)
    for phase, fit in fits.items():
        for epoch in fit(states.get(phase)):
            states[phase] = epoch.state
            _report(phase, epoch, states, leader=share.rank == 0)
    captioner.evidence = evidence
    if share.rank == 0:
        trained = Trained(
            captioner=captioner.cpu(),
            language_model=language_model.cpu(),
            encoder=spec.encoder,
            encoder_id=spec.encoder_id,
            decode=DECODE if evidence is None else BY_EVIDENCE,
            notes=spec.notes,
        )
        storage = storage_for(spec.url)
        for name, data in checkpoint.save(trained).items():
            storage.write(name, data)


def _lessons(spec: TrainSpec, device: torch.device, share: Share) -> Lessons | None:
    """What there is to learn; None, on every worker, where one of them found its input wrong and wrote down why."""
    storage, schema = storage_for(spec.url), contracts.features_schema(spec.num_features)
    lessons, wrong = None, torch.zeros(1, device=device)
    try:
        parts = [contracts.from_parquet(storage.read(key), schema, where=key) for key in spec.features]
        lessons = Lessons(examples_of(spec.source.open(), pa.concat_tables(parts)), spec.learning, device)
    except MamiError as error:
        if not is_bad_input(error):
            raise
        storage.write(_REFUSED, redact(str(error)).encode())
        wrong += 1
    if share.reduce:
        share.reduce([wrong])
    return None if bool(wrong) else lessons


def _add_up(tensors: Sequence[Tensor]) -> None:
    """Sum over the workers, in place; one message for all tensors."""
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    torch.distributed.all_reduce(flat)
    for tensor, total in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(total.view_as(tensor))


def _file_of(phase: str) -> str:
    return f"{phase.replace(' ', '_')}.safetensors"


def _resumed(phases: Iterable[str]) -> dict[str, TrainingState]:
    """These fits' states after the last epoch that was kept."""
    import ray.train

    kept = ray.train.get_checkpoint()
    if kept is None:
        return {}
    with kept.as_directory() as folder:
        found = {phase: Path(folder) / _file_of(phase) for phase in phases}
        return {
            phase: checkpoint.load_state(path.read_bytes(), where=path.name)
            for phase, path in found.items()
            if path.exists()
        }


def _report(phase: str, epoch: Epoch, states: dict[str, TrainingState], *, leader: bool) -> None:
    """Tells Ray Train how far it is; every worker must. The leader's files are what a restart goes on from."""
    import ray.train

    metrics = {"phase": phase, "epoch": epoch.number, "loss": epoch.loss, "score": epoch.score}
    if not leader:
        ray.train.report(metrics)
        return
    best = " (best so far)" if epoch.is_best else ""
    logger.info("%s, epoch %d: loss %.4g, score %.4g%s", phase, epoch.number, epoch.loss, epoch.score, best)
    with tempfile.TemporaryDirectory() as folder:
        for name, state in states.items():
            (Path(folder) / _file_of(name)).write_bytes(checkpoint.save_state(state))
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))


def require_room(
    num_workers: int, each: Mapping[str, float], resources: Mapping[str, float], nodes: Sequence[Any]
) -> None:
    """On one machine, workers that do not fit at the same time would wait for each other for ever.

    Raises:
        ConfigError: naming what is missing.
    """
    if not is_one_machine(resources, sum(node["Alive"] for node in nodes)):
        return
    for name, amount in each.items():
        if num_workers * amount > resources.get(name, 0.0):
            raise ConfigError(
                f"{num_workers} training workers need {num_workers * amount:g} {name}s at the same time, and this "
                f"machine has {resources.get(name, 0.0):g}. Give fewer --num-workers, or less to each."
            )
