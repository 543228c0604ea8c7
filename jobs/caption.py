"""Captions a folder of exemplars, as MILAN's scripts leave them: neither network nor descriptions are needed.

python -m jobs.caption EXEMPLARS --captioner CAPTIONER --output LABELS

The labels are a table as jobs.label writes it, without thresholds and trust, of which such a folder says nothing.
Running the same command again finishes what is missing.
"""

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import tyro

from jobs.engine import runtime
from jobs.engine.decode_options import CHOOSING, decode_of
from jobs.engine.foretold import Step, planned
from jobs.engine.plan import MANIFEST, Plan, begin, write_manifest
from jobs.engine.pool import PoolConfig, gpus_a_worker
from jobs.engine.work import require_complete, run_stage
from jobs.storage import Storage, redact, storage_for
from jobs.storage.networks import load_captioner, load_encoder
from jobs.storage.places import settle
from jobs.training.annotated import Source
from jobs.training.exemplars import CaptionExemplars, EncodeExemplars, caption_items, exemplars_key
from jobs.training.features import feature_items
from mami_core import contracts
from mami_core.captioners import SHIPPED
from mami_core.captions.decode import DecodeConfig, Strategy, check_networks
from mami_core.labels import labels_at
from mami_core.learning.annotated_folder import exemplars_of, fingerprint
from mami_core.learning.descriptions import AnnotatedNeurons

logger = logging.getLogger(__name__)

_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionJob:
    """Caption the neurons of an exemplar folder in MILAN's layout."""

    GROUPS: ClassVar[Mapping[str, Sequence[str]]] = {
        "What, and where to": ("exemplars", "images", "captioner", "output", "subject"),
        "Captions": (*CHOOSING, "num_captions", "as_taught"),
        "Workers": ("num_workers", "num_gpus", "num_cpus"),
    }
    ADDRESSES: ClassVar = ("exemplars", "output", "images")
    ADDRESSES_OR_NAMES: ClassVar = ("captioner",)

    exemplars: tyro.conf.Positional[str]
    """The folder: masks.npy and images.npy, or ids.csv, for each layer; one of a network, or a folder of such. Every
    worker must be able to read it."""
    output: str
    """The folder of the labels, local or s3://."""
    captioner: str = SHIPPED
    """The captioner's folder, local or s3://. By default the one that comes with the project."""
    images: str | None = None
    """The images that ids.csv numbers, where there is no images.npy; local or s3://."""
    subject: str | None = None
    """What the labels call the network; by default the folder's name."""

    strategy: Strategy | None = None
    """How captions are chosen. By default, as the following six, the captioner's own way if it has one, otherwise as
    jobs.label."""
    beam_size: int | None = None
    """Captions that are followed at the same time."""
    lm_weight: float | None = None
    """λ in log p(caption|exemplars) − λ log p(caption)."""
    length_penalty: float | None = None
    """Captions are compared by that, divided by (number of words)^length_penalty."""
    evidence_weight: float | None = None
    """How much is added to that for being borne out by the exemplars, up to four times so much. By default as the
    captioner says; 0 for one that was not taught what exemplars show."""
    max_length: int | None = None
    """The most words of a caption."""
    num_captions: int | None = None
    """Captions kept for each neuron."""
    as_taught: bool = True
    """Let captions leave the sequences of words that the captioner was taught."""

    num_workers: int = 0
    """Workers at once; 0 for as many as there are GPUs, or CPUs where there is no GPU."""
    num_gpus: float | None = None
    """GPUs a worker. By default 1 where the cluster has GPUs, otherwise 0."""
    num_cpus: float = 1.0
    """CPUs a worker."""

    def __post_init__(self) -> None:
        settle(self)
        self.pool(num_gpus=self.num_gpus or 0.0)

    def source(self) -> Source:
        """Where the exemplars are."""
        return Source(name=self.exemplars, images=self.images, described=False)

    def pool(self, *, num_gpus: float) -> PoolConfig:
        """The workers, each with so many GPUs."""
        return PoolConfig(num_workers=self.num_workers, num_gpus=num_gpus, num_cpus=self.num_cpus)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A job whose every input was looked at."""

    config: dict[str, Any]
    """What makes the run what it is: the plan's content."""
    neurons: AnnotatedNeurons
    subject: str
    captioner_id: str
    num_features: int
    """Of an exemplar."""
    decode: DecodeConfig


def prepare(job: CaptionJob) -> Prepared:
    """Load what can be wrong and say so now.

    Raises:
        MamiError: naming what is wrong and what was expected.
    """
    trained = load_captioner(job.captioner)
    encoder, decode = load_encoder(trained), decode_of(job, trained.decode)
    check_networks(trained.captioner, trained.language_model, decode)
    logger.info("Opening the exemplars in %s", redact(job.exemplars))
    neurons = job.source().open()
    subject = job.subject or Path(job.exemplars).name
    config = {
        "exemplars": {"fingerprint": fingerprint(neurons), "neurons": len(neurons), "images": neurons.num_images},
        "subject": subject,
        "captioner": {"id": trained.id, "encoder": encoder.id},
        "decode": decode.identity(),
        "tables": dict(map(contracts.identity, (contracts.EXEMPLARS, contracts.features_schema(1), contracts.LABELS))),
    }
    return Prepared(
        config=config,
        neurons=neurons,
        subject=subject,
        captioner_id=trained.id,
        num_features=encoder.num_features,
        decode=decode,
    )


def run(job: CaptionJob) -> int:
    """Caption everything that is not captioned yet."""
    runtime.require_ray(num_gpus=job.num_gpus)
    prepared, storage = prepare(job), storage_for(job.output)
    with begin(storage, prepared.config) as plan:
        if storage.exists(MANIFEST):
            logger.info("%s is finished already; nothing was done.", redact(storage.url))
        else:
            runtime.write_run_json(storage, job)
            with runtime.connect():
                work(storage, plan, job, prepared, job.pool(num_gpus=gpus_a_worker(job.num_gpus)))
    runtime.show(_summary(storage))
    return runtime.COMPLETE


def plan(job: CaptionJob) -> str:
    """What `run` would do."""
    prepared = prepare(job)
    neurons = prepared.neurons
    vectors = 2.0 * prepared.num_features * int((neurons.images >= 0).sum())
    items = len(feature_items(neurons.num_images))
    steps = [
        Step(name="features", items=items, bytes_read=None, bytes_written=vectors, seconds=None),
        Step(name="captions", bytes_read=vectors, bytes_written=None, seconds=None),
    ]
    line = f"Captioning {len(neurons):,} neurons, whose exemplars show {neurons.num_images:,} images"
    return planned(line, steps, into=job.output)


def work(storage: Storage, plan: Plan, job: CaptionJob, prepared: Prepared, pool: PoolConfig | None) -> None:
    """Works every stage, up to the manifest. Without a pool, in this process and without Ray.

    Raises:
        IncompleteRunError: something is missing; names it.
    """
    key, table = exemplars_key(prepared.subject), exemplars_of(prepared.neurons, prepared.subject)
    storage.write(key, contracts.to_parquet(table, contracts.EXEMPLARS))
    captioner = {
        "captioner": job.captioner,
        "captioner_id": prepared.captioner_id,
        "device": "cuda" if pool and pool.num_gpus else "cpu",
        "exemplars": key,
    }
    decoding = {"decode": prepared.decode, "run": plan.fingerprint[:16]}
    captions = caption_items(table)
    for items, worker, args in (
        (feature_items(prepared.neurons.num_images), EncodeExemplars, {"source": job.source()}),
        (captions, CaptionExemplars, decoding),
    ):
        require_complete(run_stage(storage, items, worker, captioner | args, pool=pool))
    write_manifest(storage, plan, [key, *(item.key for item in captions)])


def _summary(storage: Storage) -> str:
    labels = labels_at(storage.url)
    rows = labels.select(["layer", "unit", "caption"]).to_pylist()
    shown = rows[:: -(-len(rows) // _SHOWN)]
    lines = [f"{row['layer']}/{row['unit']}: {row['caption']}" for row in shown]
    place = redact(storage.url)
    return "\n".join([f"{len(rows):,} neurons are captioned.", *lines, f"\npandas.read_parquet({f'{place}/labels'!r})"])


if __name__ == "__main__":
    sys.exit(runtime.main(CaptionJob, run, plan=plan))
