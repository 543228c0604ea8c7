"""Labels every neuron of one or several networks: images in, a Parquet table of captions out.

python -m jobs.label --subject efficientnet_lite0 --images PHOTOS --output LABELS

Running the same command again finishes what is missing; when nothing is, it says so and changes nothing.
"""

import dataclasses
import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

from jobs.engine import runtime
from jobs.engine.decode_options import CHOOSING, decode_of
from jobs.engine.plan import MANIFEST, Plan, begin, is_finished
from jobs.engine.pool import PoolConfig, cpus_a_worker, gpus_a_worker
from jobs.engine.work import StageReport
from jobs.labelling import foretold, summary
from jobs.labelling.prepare import Prepared, explain, prepare
from jobs.labelling.run import work
from jobs.labelling.specs import CaptionerSpec, ScorerSpec, SubjectSpec
from jobs.labelling.subjects_file import subjects_of
from jobs.storage import absolute, redact, safe_name, storage_for
from jobs.storage.places import settle, settled
from mami_core.captioners import SHIPPED
from mami_core.captions.decode import DecodeConfig, Strategy
from mami_core.errors import ConfigError, StorageRefusedError
from mami_core.exemplars.search import SearchConfig
from mami_core.features import Regions
from mami_core.judging import TrustConfig
from mami_core.metrics.scorers import LEARNED, NONE
from mami_core.pipeline import LabelConfig
from mami_core.sizes import Filter
from mami_core.subjects import Ends

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelJob:
    """Label the neurons of vision networks: exemplars, features and captions, as a table that pandas reads."""

    GROUPS: ClassVar[Mapping[str, Sequence[str]]] = {
        "What, and where to": ("subject", "images", "output", "layers", "captioner", "subjects_file", "image_column"),
        "The networks": (
            "as_",
            "weights",
            "preprocessing",
            "input_size",
            "crop",
            "mean",
            "std",
            "interpolation",
            "ends",
            "dictionary",
            "encoder_weights",
        ),
        "Exemplars": ("k", "quantile", "regions", "batch_size"),
        "Captions": (*CHOOSING, "num_captions", "as_taught"),
        "Trust": ("scorer", "held_out", "rerank"),
        "Workers": (
            "num_workers",
            "num_gpus",
            "num_cpus",
            "decode_cpus",
            "memory_gb",
            "precision",
            "decode_on",
            "images_per_item",
            "neurons_per_item",
        ),
    }
    ADDRESSES: ClassVar = ("subjects_file", "output")
    ADDRESSES_OR_NAMES: ClassVar = ("images", "captioner", "weights", "encoder_weights")

    subject: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """The network to explain: efficientnet_lite0|1|2, torchvision:NAME, timm:NAME, hf:NAME or hf:FOLDER,
    openclip:ARCHITECTURE/TAG, export:FILE.pt2, or python:MODULE:FACTORY. Give it several times to label several
    networks in one run."""
    as_: Annotated[tuple[str, ...], tyro.conf.arg(name="as"), tyro.conf.UseAppendAction] = ()
    """What the tables call the network, where that is not its name; as many as there are subjects, in their order."""
    subjects_file: str | None = None
    """Instead of --subject, a YAML list, local or s3://: of names, or of mappings with name, as, weights,
    preprocessing, layers, input_size, crop, interpolation, mean and std (both of them for pixels from 0 to 255)."""
    images: str
    """Where the images are, local or s3://: a folder, a .txt list, Parquet with image bytes, or WebDataset tars. For a
    generator its latents: a .npy, .safetensors or .pt file, or random:SEED:COUNT."""
    image_column: str | None = None
    """The column of a Parquet that holds the images. By default image (bytes, or a struct with bytes) or bytes."""
    captioner: str = SHIPPED
    """The captioner's folder, local or s3://, as mami train leaves it. By default the one that comes with the
    project."""
    output: str | None = None
    """The run's folder, local or s3://. By default runs/ and a name that follows from the configuration."""

    layers: tuple[str, ...] = ()
    """Layers, by name, pattern ('layer[34]', 'features.*') or preset (every-block, activations, mlp, heads, head);
    with a range at the end, some of their units ('layer4[0:256]'). By default a choice that suits the family: every
    block of a transformer, the ends of other networks' stages or the activated units there; mami subjects shows what
    there is."""
    ends: Ends = "highest"
    """Which ends of each unit's values are labelled; the lowest are neurons of their own, in layers NAME:lowest."""
    dictionary: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """layer=FILE: a sparse autoencoder, transcoder, probe or directions over a layer. Its latents are labelled, as the
    layer layer:NAME; see docs/subjects.md for the files that are read."""
    weights: str | None = None
    """Weights file of the subject, local or s3:// (.safetensors, or .pth without pickled code). By default its
    pretrained ones."""
    input_size: int | None = None
    """Side of the subject's input in pixels, if not the usual one."""
    crop: float | None = None
    """Side of the centred square that the subject sees, as a share of the image's short side."""
    preprocessing: str | None = None
    """The published weights whose size, crop, mean and std suit the weights file, such as IMAGENET1K_V1."""
    mean: tuple[float, float, float] | None = None
    """What is taken from the pixels (0 to 255), per channel."""
    std: tuple[float, float, float] | None = None
    """What they are then divided by, per channel."""
    interpolation: Filter | None = None
    """How images are resized for the subject; by default as for the evaluation of its weights."""
    encoder_weights: str | None = None
    """Weights file of the captioner's encoder, local or s3://, where it is not where the captioner found it."""

    k: int = 15
    """Exemplars a neuron."""
    quantile: float = 0.99
    """The share of positions that do not exceed a neuron's threshold."""
    batch_size: int = 32
    """Images that a network sees at once."""
    regions: Regions | None = None
    """How regions are drawn: mami (every exemplar has one), or milan (as MILAN draws them). By default as for what the
    captioner was trained on."""
    strategy: Strategy | None = None
    """How captions are chosen: mutual information after or during the beam search, or likelihood alone. By default, as
    the following five, the captioner's own way if it has one, otherwise rerank."""
    beam_size: int | None = None
    """Captions that are followed at the same time; by default 50."""
    lm_weight: float | None = None
    """λ in log p(caption|exemplars) − λ log p(caption); by default 0.2."""
    length_penalty: float | None = None
    """Captions are compared by that, divided by (number of words)^length_penalty; with 0, short ones nearly always
    win. By default 0.7, and 0 for a captioner that was imported from MILAN."""
    evidence_weight: float | None = None
    """How much is added to that for being borne out by the exemplars, up to four times so much. By default as the
    captioner says; 0 for one that was not taught what exemplars show. With it, what is true of about half of them is
    said with "often"."""
    max_length: int | None = None
    """The most words of a caption; by default 15."""
    num_captions: int = 5
    """Captions kept for each neuron."""
    as_taught: bool = True
    """Let captions leave the sequences of words that the captioner was taught."""

    precision: Literal["float32", "tf32", "bfloat16"] = "tf32"
    """In which subject and encoder compute; docs/performance.md has what each changes. On a CPU tf32 is float32. The
    captioner computes in float32 or, unless that is chosen, in tf32."""
    decode_on: Literal["cpu", "gpu"] = "cpu"
    """What decodes JPEGs. "gpu" is an NVIDIA one of the workers: several times faster, and other in the last bits."""

    scorer: str = LEARNED
    """Who judges how far each caption can be trusted: learned, which needs nothing from outside; conse, the same
    without what it learned; a CLIP, SigLIP or OpenCLIP network, by its folder or its name in this machine's cache; or
    none."""
    held_out: float = 0.2
    """Share of the images, by a hash of their names, that judge captions and choose no exemplars; no more than about
    10,000 images."""
    rerank: Literal["none", "trust"] = "none"
    """Whether each neuron's captions are put into the order of their trust. One half of the held-out images then
    chooses, and the other half judges."""

    num_workers: int = 0
    """Workers at once; 0 for as many as there are GPUs, or CPUs where there is no GPU."""
    num_gpus: float | None = None
    """GPUs a worker. By default 1 where the cluster has GPUs, otherwise 0."""
    num_cpus: float | None = None
    """CPUs a worker: they decode its images, in threads up to eight, and beyond in processes where it has a GPU. By
    default 1, and its share of a machine's that is there where it has a GPU and nobody else decodes (--decode-cpus)."""
    decode_cpus: int = 0
    """CPUs of any machines that decode the images of each worker and send it the pixels; for machines whose GPU is
    faster than their CPUs decode. 0 leaves that to the worker's own."""
    memory_gb: float = 0.0
    """Memory that a worker reserves; 0 reserves none."""
    images_per_item: int | None = None
    """Images in a work item. By default such that there are up to 256 items; it is part of the run."""
    neurons_per_item: int = 1024
    """Neurons in a work item, and in a file of labels; it is part of the run."""

    def __post_init__(self) -> None:
        settle(self)
        # Refuses what cannot be, before anything is loaded.
        self.pool(num_gpus=self.num_gpus or 0.0, num_cpus=self.num_cpus)

    def label_config(self, own: DecodeConfig | None = None) -> LabelConfig:
        """What of this changes the labels, `own` being the captioner's way of decoding if it has one."""
        return LabelConfig(
            search=SearchConfig(k=self.k, quantile=self.quantile, batch_size=self.batch_size),
            regions=self.regions,
            decode=decode_of(
                self,
                own,
                # bfloat16 would hardly be faster here, and other captions would come out.
                precision="float32" if self.precision == "float32" else "tf32",
            ),
            trust=None if self.scorer == NONE else TrustConfig(held_out=self.held_out, rerank=self.rerank == "trust"),
            precision=self.precision,
            decode_on=self.decode_on,
        )

    def subject_specs(self) -> tuple[SubjectSpec, ...]:
        """The subjects, each with what it takes to load it.

        Raises:
            ConfigError: no subject, one given twice, settings for more than one, or a file that lists none.
        """
        return subjects_of(dataclasses.asdict(self))

    def prepare(self) -> Prepared:
        """The run, with everything looked at that can be wrong.

        Raises:
            MamiError: naming what is wrong and what was expected.
        """
        specs = self.subject_specs()
        _require_apart(self.images, self.output)
        captioner = CaptionerSpec(url=_for_any_worker(self.captioner), encoder_weights=self.encoder_weights)
        trained = captioner.load()
        return prepare(
            specs,
            self.images,
            captioner,
            trained,
            self.label_config(trained.decode),
            scorer=_scorer(self.scorer),
            image_column=self.image_column,
            images_per_item=self.images_per_item,
            neurons_per_item=self.neurons_per_item,
        )

    def pool(self, *, num_gpus: float, num_cpus: float | None = None) -> PoolConfig:
        """The workers, each with so many GPUs and CPUs.

        Raises:
            ConfigError: numbers that no pool can have.
        """
        return PoolConfig(
            num_workers=self.num_workers,
            num_gpus=num_gpus,
            num_cpus=1.0 if num_cpus is None else num_cpus,
            memory_gb=self.memory_gb,
            helper_cpus=self.decode_cpus,
        )


def run(job: LabelJob) -> int:
    """Label everything that is not labelled yet; the exit code."""
    start = time.monotonic()
    reports: list[StageReport] = []
    runtime.require_ray(num_gpus=job.num_gpus)
    with _storage_must_agree():
        prepared = job.prepare()
        storage = storage_for(job.output or f"runs/{_default_name(prepared)}")
    with begin(storage, prepared.config, explain=explain) as plan:
        if storage.exists(MANIFEST):
            logger.info("%s is finished already; nothing was done.", redact(storage.url))
        else:
            logger.info("%s", foretold.first_line(prepared.spec.layout, redact(storage.url)))
            logger.info("%s", foretold.about(prepared.spec.layout, prepared.seconds, gpus=bool(job.num_gpus)))
            runtime.write_run_json(storage, dataclasses.replace(job, output=storage.url))
            with runtime.connect():
                reports = work(storage, plan, prepared, pool_of(job))
    runtime.show(f"\n{prepared.inventory}")
    seconds = time.monotonic() - start
    runtime.show(summary.of_labels(storage, reports, maps=prepared.maps, notes=prepared.notes, seconds=seconds))
    return runtime.COMPLETE


def plan(job: LabelJob) -> str:
    """What `run` would do."""
    with _storage_must_agree():
        prepared = job.prepare()
        storage = storage_for(job.output or f"runs/{_default_name(prepared)}")
        output = redact(storage.url)
        if is_finished(storage, prepared.config, explain=explain):
            return f"{output} holds this run, finished: nothing would be done."
    return foretold.planned(prepared.spec.layout, output, gpus=bool(job.num_gpus), seconds=prepared.seconds)


@contextmanager
def _storage_must_agree() -> Iterator[None]:
    """Before any work, storage that refuses is bad input: the same command again would be refused again."""
    try:
        yield
    except StorageRefusedError as error:
        raise ConfigError(str(error)) from error


def _require_apart(images: str, output: str | None) -> None:
    """A run inside the folder of its images would be found among them when it goes on."""
    if output and f"{absolute(output)}/".startswith(f"{images.removesuffix('/')}/"):
        raise ConfigError(
            f"{redact(output)}: --output lies in --images, where the next listing would find it among the images. "
            "Name a folder beside them."
        )


def _for_any_worker(captioner: str) -> str:
    """The project's own captioner by its name, because it lies elsewhere on every machine."""
    return captioner if captioner == SHIPPED else absolute(captioner)


def _scorer(name: str) -> ScorerSpec | None:
    if name == NONE:
        return None
    return ScorerSpec.of(settled(name) if Path(name).is_dir() else name)


def _default_name(prepared: Prepared) -> str:
    names = "-".join(safe_name(name) for name in prepared.spec.layout.subjects)
    return f"{names[:80]}-{Plan(prepared.config).fingerprint[:12]}"


def pool_of(job: LabelJob) -> PoolConfig:
    """The workers that the job asks for, on the Ray that this process is connected to."""
    num_gpus = gpus_a_worker(job.num_gpus)
    # Where other CPUs decode, the worker leaves them free.
    wanted = 1.0 if job.num_cpus is None and job.decode_cpus else job.num_cpus
    return job.pool(num_gpus=num_gpus, num_cpus=cpus_a_worker(wanted, num_gpus=num_gpus))


if __name__ == "__main__":
    sys.exit(runtime.main(LabelJob, run, plan=plan))
