"""Trains a captioner on annotated neurons, over one or several workers.

python -m jobs.train --neurons MILANNOTATIONS_FOLDER --output CAPTIONER

The features of all exemplars are computed once, as work items; then Ray Train fits the language model and the
captioner. The output folder is what jobs.label takes as --captioner. Running the same command again resumes.
"""

import dataclasses
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

from jobs.engine import runtime
from jobs.engine.plan import MANIFEST, Plan, begin, write_manifest
from jobs.engine.pool import gpus_a_worker
from jobs.storage import Storage, redact, storage_for
from jobs.storage.places import settle
from jobs.training import foretold
from jobs.training.annotated import GENERATED, Source, explain, features_of_run
from jobs.training.features import read_features, work_features
from jobs.training.loop import TrainSpec, require_room, train_on_ray
from jobs.training.scores import SCORES, SUMMARY, score
from mami_core.captions.captioner import CaptionerConfig
from mami_core.captions.language_model import LanguageModelConfig
from mami_core.errors import ConfigError
from mami_core.features import EncoderConfig, Regions, load_encoder
from mami_core.learning import checkpoint
from mami_core.learning.annotated_features import examples_of
from mami_core.learning.descriptions import AnnotatedNeurons
from mami_core.learning.fit import FitConfig
from mami_core.learning.generated import UNSEEN
from mami_core.learning.targets import SplitConfig, TargetsConfig, training_split
from mami_core.learning.training import LearningConfig, Lessons
from mami_core.tokenizers import Tokenizer

logger = logging.getLogger(__name__)

Config = TypeVar("Config", EncoderConfig, CaptionerConfig, LanguageModelConfig, LearningConfig, SplitConfig, FitConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainJob:
    """Train a captioner on annotated neurons."""

    GROUPS: ClassVar[Mapping[str, Sequence[str]]] = {
        "What, and where to": ("neurons", "descriptions", "images", "num_generated", "output"),
        "What it reads": (
            "encoder",
            "encoder_weights",
            "encoder_input_size",
            "pooling",
            "regions",
            "place",
            "scene",
            "looks",
            "forms",
        ),
        "The captioner": (
            "attentions",
            "fusion",
            "luong",
            "self_context",
            "reading",
            "num_ranks",
            "hidden",
            "embedding",
            "attention_size",
            "dropout",
            "language_layers",
        ),
        "Descriptions": ("join_descriptions", "max_length", "min_count", "tokenizer", "in_a_row", "validation", "test"),
        "Learning": (
            "batch_size",
            "max_epochs",
            "patience",
            "learning_rate",
            "decay",
            "weight_decay",
            "attention_penalty",
            "label_smoothing",
            "exemplar_dropout",
            "stop_by",
            "seed",
        ),
        "Workers": ("num_workers", "num_gpus", "num_cpus", "max_failures"),
    }
    ADDRESSES: ClassVar = ("output", "descriptions", "images")
    ADDRESSES_OR_NAMES: ClassVar = ("neurons", "encoder_weights")

    output: str
    """Folder or s3:// URL for the captioner, its scores on held-out neurons, and what is needed to resume."""
    neurons: str = GENERATED
    """Annotated neurons: a folder in MILANNOTATIONS' layout, "generated" for those that the project makes itself, or,
    with --descriptions, the output of mami label, local or s3://."""
    descriptions: str | None = None
    """What people said of a labelling run's neurons: a CSV file with the columns layer, unit and summary."""
    images: str | None = None
    """The images that the folder's ids.csv numbers, where it has no images.npy, as MILANNOTATIONS' ImageNet parts are
    published: ImageNet's folder of validation images, by class. Local or s3://."""
    num_generated: int = 1200
    """How many neurons to make."""

    encoder: str = "efficientnet_lite2"
    """The network whose features describe exemplars, by any name of a subject; MAMI reads torchvision:resnet101
    with the weights IMAGENET1K_V1."""
    encoder_weights: str | None = None
    """Its weights file; by default those that belong to the name."""
    encoder_input_size: int | None = None
    """Side of its input in pixels; by default its own."""
    pooling: Literal["area", "bilinear"] = "area"
    """How a region meets the encoder's levels; "bilinear" is MILAN's way."""
    regions: Regions = "mami"
    """How the captioner is to be shown regions: mami, or milan, whose pooling is always bilinear on 224 cells and whose
    empty masks say nothing. jobs.label then draws them so by itself."""
    place: bool = False
    """Let the captioner see where each region lies in its image, and how large it is."""
    scene: bool = False
    """Let the captioner see the whole image beside each region."""
    looks: bool = False
    """Let the captioner see what pixels tell by themselves: colours, edges, textures and shapes."""
    forms: bool = False
    """Let the captioner see what form each region has: strips of which direction, or specks."""

    attentions: tuple[Literal["bahdanau", "luong", "self"], ...] = ("bahdanau",)
    """Any of the three. By default the one that describes neurons best (docs/captions.md), as MILAN has it; all three
    are MAMI."""
    fusion: Literal["sum", "concatenation", "weights"] = "sum"
    """How their contexts become one."""
    luong: Literal["general", "dot", "concat", "scaled"] = "general"
    """The energies of Luong's attention."""
    self_context: Literal["hidden", "mean"] = "hidden"
    """How self-attention's vectors become one context: attended by the LSTM's state, or their mean."""
    reading: Literal["before", "after", "feeding"] = "before"
    """Whether exemplars are read before or after the LSTM's step, or after it and fed to the next one too."""
    num_ranks: int = 0
    """Learned weights for so many ranks of exemplars, strongest first; 0 weighs all alike."""
    hidden: int = 512
    """Numbers in the captioner's and the language model's LSTM state."""
    embedding: int = 128
    """Numbers a word."""
    attention_size: int = 512
    """Numbers in a query or key."""
    dropout: float = 0.5
    """Share of the states that each training step leaves out."""
    language_layers: int = 2
    """LSTM layers of the language model."""

    join_descriptions: bool = False
    """Join a neuron's descriptions into one long one, instead of learning each."""
    max_length: int = 31
    """Words of a description that are learned, the stop word counted."""
    min_count: int = 1
    """How often a word must occur to be learned."""
    tokenizer: Tokenizer = "words"
    """How descriptions are cut: words (letters and digits), or spacy (punctuation too, as MILAN does)."""
    in_a_row: int = 4
    """Captions will keep to what was taught: every so many words in a row, start and stop counted, are some of a
    training description. 0 lets them say any words in any order."""
    validation: float = 0.1
    """Share of the neurons on which training decides when to stop."""
    test: float = 0.1
    """Share of the neurons that are kept for the scores."""

    batch_size: int = 64
    """Descriptions a step, over all workers; for the probe of what exemplars show, neurons."""
    max_epochs: int = 100
    """Times that all descriptions are learned, at most."""
    patience: int = 4
    """Epochs without a better validation score before training stops."""
    learning_rate: float = 1e-3
    """Of AdamW."""
    decay: bool = False
    """Let the learning rate fall in a straight line, to nothing at the end of --max-epochs."""
    weight_decay: float = 1e-2
    """Of AdamW."""
    attention_penalty: float = 1.0
    """Weight of the doubly stochastic attention loss."""
    label_smoothing: float = 0.0
    """How much of a word's probability the captioner learns to spread over all words."""
    exemplar_dropout: float = 0.3
    """Share of a neuron's exemplars that each training step leaves out, at random."""
    stop_by: Literal["likelihood", "bleu"] = "likelihood"
    """Which epoch is best: the one that thinks validation descriptions likeliest, or of the best greedy captions."""
    seed: int = 0
    """Decides first weights, order, what is left out, and the split of the neurons."""

    num_workers: int = 1
    """Training workers; they share every batch. It is part of the run: rounding depends on it."""
    num_gpus: float | None = None
    """GPUs a worker. By default 1 where the cluster has GPUs, otherwise 0."""
    num_cpus: float | None = None
    """CPUs a training worker. By default 1 beside a GPU, otherwise the cluster's CPUs shared out."""
    max_failures: int = 3
    """How many times training starts again from its last checkpoint after losing a worker; -1 for always."""

    def __post_init__(self) -> None:
        settle(self)
        if self.num_workers < 1:
            raise ConfigError(f"num_workers: expected at least 1, got {self.num_workers}.")
        if (self.num_gpus or 0) < 0 or (self.num_cpus is not None and self.num_cpus <= 0):
            raise ConfigError("num_gpus must be at least 0, and num_cpus above 0.")

    def source(self) -> Source:
        """Where the neurons come from."""
        return Source(
            name=self.neurons,
            descriptions=self.descriptions,
            num_neurons=self.num_generated,
            seed=self.seed,
            images=self.images,
        )

    def encoder_config(self) -> EncoderConfig:
        """Which network describes exemplars."""
        named = {"name": self.encoder, "weights": self.encoder_weights, "input_size": self.encoder_input_size}
        return _settings(EncoderConfig, self, **named)

    def captioner_config(self, num_features: int) -> CaptionerConfig:
        """The captioner's shape."""
        return _settings(CaptionerConfig, self, num_features=num_features)

    def language_config(self) -> LanguageModelConfig:
        """The language model's shape."""
        return _settings(LanguageModelConfig, self, layers=self.language_layers)

    def learning_config(self) -> LearningConfig:
        """How both are trained."""
        kept = (UNSEEN,) if self.neurons == GENERATED else ()
        return _settings(
            LearningConfig,
            self,
            targets=TargetsConfig(join=self.join_descriptions),
            split=_settings(SplitConfig, self, test_layers=kept),
            fit=_settings(FitConfig, self),
        )


def _settings(config: type[Config], job: TrainJob, **others: Any) -> Config:
    """A config with what the job says under the same names, and with others."""
    names = {field.name for field in dataclasses.fields(config)} & {field.name for field in dataclasses.fields(job)}
    return config(**{name: getattr(job, name) for name in names} | others)


def run(job: TrainJob) -> None:
    """Train, or go on training; at the end show the scores on held-out neurons."""
    start = time.monotonic()
    runtime.require_ray(num_gpus=job.num_gpus)
    storage = storage_for(job.output)
    logger.info("Opening the annotated neurons (%s)", redact(job.neurons))
    annotated = job.source().open()
    training_split(annotated.neurons, job.learning_config().split)
    encoder = load_encoder(job.encoder_config())
    if job.descriptions is not None and (made_by := features_of_run(job.neurons)[0]) != encoder.id:
        raise ConfigError(
            f"{redact(job.neurons)}: its features come from encoder {made_by}, and --encoder {job.encoder} is "
            f"{encoder.id}. Name the encoder that the run's captioner was trained with."
        )
    config = _config(job, annotated, encoder.id, encoder.num_features)
    with begin(storage, config, explain=explain) as plan:
        if not storage.exists(MANIFEST):
            runtime.write_run_json(storage, job, seed=job.seed)
            with runtime.connect():
                _train(job, storage, plan, annotated, encoder.num_features, encoder.id)
    runtime.show(storage.read(SUMMARY).decode())
    runtime.show(f"{time.monotonic() - start:,.0f} s. The captioner is in {storage.url}")


def plan(job: TrainJob) -> str:
    """What `run` would do."""
    shape = job.captioner_config(load_encoder(job.encoder_config()).num_features)
    return foretold.planned(job.source(), job.learning_config(), shape, job.language_config(), into=job.output)


def _config(job: TrainJob, annotated: AnnotatedNeurons, encoder_id: str, num_features: int) -> dict[str, Any]:
    """What makes the run what it is."""
    return {
        "neurons": job.source().identity(annotated),
        "encoder": encoder_id,
        "captioner": dataclasses.asdict(job.captioner_config(num_features)),
        "language_model": dataclasses.asdict(job.language_config()),
        "learning": dataclasses.asdict(job.learning_config()),
        "num_workers": job.num_workers,
        "checkpoint": checkpoint.VERSION,
    }


def _train(
    job: TrainJob, storage: Storage, plan: Plan, annotated: AnnotatedNeurons, num_features: int, encoder_id: str
) -> None:
    import ray

    resources = ray.cluster_resources()
    num_gpus = gpus_a_worker(job.num_gpus)
    num_cpus = job.num_cpus or (1.0 if num_gpus else max(1.0, resources.get("CPU", 1.0) // job.num_workers))
    require_room(job.num_workers, {"CPU": num_cpus, "GPU": num_gpus}, resources, ray.nodes())
    items = work_features(storage, job.source(), annotated, job.encoder_config(), num_features, num_gpus=num_gpus)
    spec = TrainSpec(
        name=f"train-{plan.fingerprint[:16]}",
        url=storage.url,
        source=job.source(),
        features=tuple(item.key for item in items),
        num_features=num_features,
        encoder=job.encoder_config(),
        encoder_id=encoder_id,
        captioner=job.captioner_config(num_features),
        language_model=job.language_config(),
        learning=job.learning_config(),
        seed=job.seed,
        notes={
            "neurons": plan.config["neurons"],
            "split": dataclasses.asdict(job.learning_config().split),
            "run": plan.fingerprint[:16],
        },
    )
    train_on_ray(spec, num_workers=job.num_workers, num_gpus=num_gpus, num_cpus=num_cpus, max_failures=job.max_failures)
    examples = examples_of(annotated, read_features(storage, spec.features, num_features))
    score(storage, Lessons(examples, job.learning_config()))
    write_manifest(storage, plan, [*checkpoint.FILES, SCORES, SUMMARY])


if __name__ == "__main__":
    sys.exit(runtime.main(TrainJob, run, plan=plan))
