"""What a labelling run is made of, by name: small enough to be sent to every worker, which loads the rest itself."""

import dataclasses
from dataclasses import dataclass, field

from jobs.labelling.layout import Layout
from jobs.storage.networks import load_captioner, local_weights
from mami_core.errors import ConfigError
from mami_core.images import HERE, Decoder
from mami_core.learning.checkpoint import Trained
from mami_core.metrics.scorers import load_scorer
from mami_core.pipeline import LabelConfig
from mami_core.sizes import Filter
from mami_core.subjects import Ends, Subject, Survey, load_subject, with_dictionary, with_slices

ENCODER = ""
"""What goes by a subject's name elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubjectSpec:
    """A subject by name, and what it takes to load it in another process."""

    name: str
    """As `mami_core.subjects.load_subject` takes it."""
    as_: str | None = None
    """What the tables call it, where that is not its name: two checkpoints of one network in one run need two."""
    weights: str | None = None
    """A weights file, local or s3://, or one of torchvision's names; by default those that belong to the name."""
    preprocessing: str | None = None
    """The published weights whose preprocessing a file's are to get, such as "IMAGENET1K_V1"."""
    input_size: int | tuple[int, int] | None = None
    """Side in pixels, or height and width."""
    crop: float | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    interpolation: Filter | None = None
    """How images are resized; by default as the weights were evaluated."""
    layers: tuple[str, ...] = ()
    """Names or patterns of the layers to label; by default a choice that suits the family."""
    ends: Ends = "highest"
    """Which ends of each unit's values are labelled, each as a neuron of its own."""
    dictionaries: tuple[str, ...] = ()
    """Of the form "layer=FILE": sparse autoencoders, probes or directions, whose latents are layers too."""

    def load(self) -> Subject:
        """The network, on the CPU."""
        with local_weights(self.weights) as weights:
            subject = load_subject(
                self.name,
                weights=weights,
                preprocessing=self.preprocessing,
                input_size=self.input_size,
                crop=self.crop,
                mean=self.mean,
                std=self.std,
                interpolation=self.interpolation,
            )
        for dictionary in self.dictionaries:
            subject = with_dictionary(subject, dictionary)
        subject = with_slices(subject, self.layers)
        return dataclasses.replace(subject, name=self.id)

    @property
    def id(self) -> str:
        """What the tables call it."""
        return self.as_ or self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionerSpec:
    """A trained captioner, and what it takes to load it in another process."""

    url: str
    """The folder of its checkpoint, local or s3://."""
    encoder_weights: str | None = None
    """A weights file for its encoder, local or s3://, instead of the one that the checkpoint names."""

    def load(self) -> Trained:
        """The captioner, on the CPU.

        Raises:
            CheckpointError: it cannot be restored.
        """
        trained = load_captioner(self.url)
        weights = self.encoder_weights or trained.encoder.weights
        return dataclasses.replace(trained, encoder=dataclasses.replace(trained.encoder, weights=weights))


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorerSpec:
    """An image–text scorer, and what it takes to load it in another process."""

    name: str
    """As `mami_core.metrics.scorers.load_scorer` takes it."""
    known_as: str
    """What identifies it, and its weights: what the labels table says."""

    @staticmethod
    def of(name: str) -> "ScorerSpec":
        """The scorer of this name, loaded to see that it is here.

        Raises:
            MamiError: it is not.
        """
        return ScorerSpec(name=name, known_as=load_scorer(name).name)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """What every worker of a run needs to know; small, since it is sent to each."""

    run: str
    """The run's fingerprint, shortened: what the labels table says."""
    layout: Layout
    subjects: tuple[SubjectSpec, ...]
    weights: dict[str, str]
    """What identifies each subject's weights, by the subject's name."""
    captioner: CaptionerSpec
    captioner_id: str
    """What identifies its weights."""
    config: LabelConfig
    scorer: ScorerSpec | None = None
    """Who judges the captions, where `config.trust` says how."""
    latents: str = ""
    """Of a generator: what its images are made from, as `images.latents.read_latents` takes it."""
    device: str = "cpu"
    decoder: Decoder = HERE
    """Where images are decoded; no label depends on it."""
    surveys: dict[str, dict[str, Survey]] = field(default_factory=dict, compare=False)
    """What forward passes told of each subject, and of the `ENCODER`, when the run was planned: workers need not look
    again (`mami_core.subjects.remembering`)."""


def check_same(what: str, found: str, expected: str) -> None:
    """A worker must not go on with other weights than those that the run was planned with."""
    if found != expected:
        raise ConfigError(
            f"The {what} has weights {found} here, but had {expected} when the run was planned. They must be the same "
            "on every machine and each time they are loaded, and stay so until the run is finished. A function that "
            "draws weights must seed them."
        )
