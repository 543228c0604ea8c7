"""Makes annotated neurons, for jobs.train, from annotated photographs: with masks, boxes, class names or captions.

python -m jobs.annotate --photographs PHOTOS --wordnet wordnet.zip --subject efficientnet_lite1 --output ANNOTATED

Each unit of real networks is described by what the regions of its exemplars share (things, parts, colours, edges,
places), and neurons for single words and pairs of words are made beside them. The output is a folder in
MILANNOTATIONS' layout, and says how true phrases are of each exemplar (mami_core/learning/annotated_folder.py):
python -m jobs.train --neurons ANNOTATED. Running the same command again resumes.
"""

import logging
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, ClassVar

import numpy as np
import tyro

from jobs.annotating import foretold
from jobs.annotating.describing import ARRAYS
from jobs.annotating.spec import AnnotateSpec, all_photographs, digest_of, sources_of
from jobs.annotating.stages import SAID, Annotator, Looked, look_at, stages
from jobs.engine import runtime
from jobs.engine.plan import MANIFEST, begin, write_manifest
from jobs.engine.pool import PoolConfig, gpus_a_worker
from jobs.engine.work import require_complete, run_stages
from jobs.labelling.specs import SubjectSpec
from jobs.storage import Storage, absolute, storage_for
from jobs.storage.places import settle
from mami_core.errors import ConfigError, DescriptionsError
from mami_core.features.looks import LOOKS_VERSION
from mami_core.learning.descriptions import PHRASES, by_neuron, descriptions_csv, read_descriptions
from mami_core.learning.dissected import Demands, Detectors, Photograph, WordNet, balanced
from mami_core.learning.dissected.detecting import versions

logger = logging.getLogger(__name__)

ANNOTATIONS = "annotations.csv"
_EXEMPLARS = 5
"""Raised when units get other exemplars, or words, from the same photographs: runs begun before cannot go on.
Nor can they where looks are others (`LOOKS_VERSION`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotateJob:
    """Make annotated neurons from annotated photographs."""

    GROUPS: ClassVar[Mapping[str, Sequence[str]]] = {
        "What, and where to": ("photographs", "wordnet", "subject", "layers", "output"),
        "Exemplars": ("held_out", "k", "quantile", "locator"),
        "What is said": (
            "detect",
            "parts",
            "concepts",
            "concepts_per_word",
            "num_descriptions",
            "gain",
            "most_said",
            "seed",
        ),
        "Workers": ("num_workers", "num_gpus", "memory_gb", "photographs_per_item"),
    }
    ADDRESSES: ClassVar = ("wordnet", "output")

    photographs: Annotated[tuple[str, ...], tyro.conf.UseAppendAction]
    """A folder of annotated photographs: with a regions.jsonl, or with classes.json and masks of class numbers (or a
    folder of such folders), or by class as ImageNet has them; or FILE:IMAGES_FOLDER, whose file is COCO's JSON, or
    sentences (CSV with the columns image and caption, JSON with a list for each image). Give it once for each source,
    on a disk that every worker can read; what several sources say of one photograph counts together."""
    wordnet: str
    """WordNet 3.0: its folder (with data.noun and index.noun) or a zip file of it."""
    output: str
    """Folder or s3:// URL for the annotated neurons. mami train reads a folder."""
    subject: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A network whose units are described, as mami label takes it; several times for several. None makes neurons for
    words alone. Never one that you want to measure the captioner on."""
    layers: tuple[str, ...] = ()
    """Layers of the subjects, by name or pattern. By default a choice that suits the family, and the class scores."""
    locator: str | None = "efficientnet_lite2"
    """An ImageNet classifier that finds where in a photograph a class is that has neither mask nor box; "none" takes
    the whole photograph."""

    detect: tuple[str, ...] = ()
    """Look for "faces" and "text" in every photograph, by networks that find them; needs mami[detect]."""

    held_out: float = 0.25
    """Share of the photographs that no neuron sees, to measure the captioner on; chosen by a hash of their names."""
    k: int = 15
    """Exemplars a neuron."""
    quantile: float = 0.99
    """The share of positions that do not exceed a unit's threshold."""
    parts: int = 3
    """How many times each unit is described: over all photographs, then over random halves of them. Units of class
    scores twice as often, with noise."""
    concepts: int = 5
    """How many times a set of neurons for the words is made."""
    concepts_per_word: float = 2.0
    """Neurons a word in each of these sets; combinations come on top."""
    num_descriptions: int = 3
    """Descriptions a neuron at most, from short to long."""
    gain: float = 12.0
    """How sure to be before something is said, in nats over chance. Higher leaves more units out."""
    most_said: float = 0.004
    """No description is more than this share of all: what is said of everything is learned as what to say."""
    seed: int = 0
    """Decides the random halves, and which words come together."""

    photographs_per_item: int = 256
    """Photographs in a work item, and in a file; it is part of the run."""
    num_workers: int = 0
    """Workers at once; 0 for as many as there are GPUs, or CPUs where there is no GPU."""
    num_gpus: float | None = None
    """GPUs a worker. By default 1 where the cluster has GPUs, otherwise 0."""
    memory_gb: float = 0.0
    """Memory that a worker reserves; 0 reserves none. A worker of the last stages holds about 0.3 MB a
    photograph, of the others 1.5 GB."""

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        settle(self)
        if not self.photographs:
            raise ConfigError("Expected --photographs at least once.")
        if not 0 <= self.held_out < 1:
            raise ConfigError(f"held_out: expected a share from 0, below 1, got {self.held_out}.")
        for name in ("k", "parts", "num_descriptions", "photographs_per_item"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected at least 1, got {getattr(self, name)}.")
        if not 0 < self.most_said <= 1:
            raise ConfigError(f"most_said: expected a share above 0, to 1, got {self.most_said}.")
        if not self.subject and self.concepts < 1:
            raise ConfigError("Expected a --subject to describe units of, or --concepts above 0.")


def run(job: AnnotateJob) -> None:
    """Make what is missing; at the end say how many neurons there are."""
    start = time.monotonic()
    storage = storage_for(job.output)
    ready = prepare(job)
    with begin(storage, ready.config, explain=explain) as plan:
        if not storage.exists(MANIFEST):
            runtime.write_run_json(storage, job, seed=job.seed)
            with runtime.connect():
                paths = work(storage, ready.spec, job, ready.looked, pool=_pool(job))
            write_manifest(storage, plan, paths)
    if not storage.exists(PHRASES):
        logger.warning(
            "This run was finished before what exemplars show was kept: captioners that learn from it have no evidence "
            "to hold captions against. To add it, delete %s and give the same command again, which describes the same "
            "exemplars anew.",
            storage.locate(MANIFEST),
        )
    runtime.show(_summary(storage))
    runtime.show(f"{time.monotonic() - start:,.0f} s. The annotated neurons are in {storage.url}")


def plan(job: AnnotateJob) -> str:
    """What `run` would do."""
    ready = prepare(job)
    items = stages(ready.spec, job.concepts, ready.looked)
    return foretold.planned(ready.spec, ready.photographs, items, ready.looked, into=job.output)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What is known before any work."""

    spec: AnnotateSpec
    """What workers need."""
    config: dict[str, Any]
    """What makes the run what it is."""
    looked: dict[str, Looked]
    """What is known of each subject."""
    photographs: tuple[Photograph, ...]


def prepare(job: AnnotateJob) -> Prepared:
    """Everything that can be known, and refused, before the work.

    Raises:
        MamiError: naming what is wrong and what was expected.
    """
    WordNet(job.wordnet)
    Detectors(job.detect)
    sources = sources_of(job.photographs)
    photographs = all_photographs(sources, job.held_out)
    logger.info("%d photographs, beside the %.0f %% held out", len(photographs), 100 * job.held_out)
    subjects = tuple(SubjectSpec(name=name, layers=job.layers) for name in job.subject)
    found = {subject.name: look_at(subject) for subject in subjects}
    spec = AnnotateSpec(
        sources=sources,
        wordnet=absolute(job.wordnet),
        subjects=subjects,
        layers={name: looked.layers for name, looked in found.items()},
        depths={name: looked.depths for name, looked in found.items()},
        locator=None if job.locator in (None, "none") else job.locator,
        detect=tuple(sorted(set(job.detect))),
        k=job.k,
        quantile=job.quantile,
        held_out=job.held_out,
        parts=job.parts,
        num_descriptions=job.num_descriptions,
        concepts_per_item=job.concepts_per_word,
        photographs_per_item=job.photographs_per_item,
        num_photographs=len(photographs),
        demands=Demands(gain=job.gain),
        seed=job.seed,
    )
    config = {
        "photographs": {"count": len(photographs), "digest": digest_of(photographs)},
        "exemplars": [_EXEMPLARS, LOOKS_VERSION],
        "weights": {name: looked.weights for name, looked in found.items()},
        "concepts": job.concepts,
        "most_said": job.most_said,
        **{
            name: value
            for name, value in asdict(spec).items()
            if name not in ("sources", "wordnet", "subjects", "num_photographs", "detect", "device")
        },
    }
    if spec.detect:
        config["detect"] = versions(spec.detect)
    return Prepared(spec=spec, config=config, looked=found, photographs=photographs)


def explain(there: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, str]:
    """What to say where two plans differ in what numbers and digests tell."""
    if there.get("exemplars") == here["exemplars"]:
        return {"photographs.digest": "other photographs than there, or something else is said of them"}
    return {
        "exemplars": "another version of this project began it and chose exemplars or words otherwise: annotate again",
        "photographs.digest": "",
    }


def work(
    storage: Storage, spec: AnnotateSpec, job: AnnotateJob, looked: dict[str, Looked], pool: PoolConfig | None
) -> list[str]:
    """Works every stage; the names of what was made. Without a pool, in this process and without Ray.

    Raises:
        IncompleteRunError: something is missing; names it.
        DescriptionsError: nothing can be said of any unit.
    """
    made_with = {"spec": replace(spec, device="cuda" if pool and pool.num_gpus else "cpu")}
    items = stages(spec, job.concepts, looked).values()
    with closing(run_stages(storage, items, Annotator, made_with, pool=pool)) as reports:
        for report in reports:
            require_complete(report)
    said = [info.path for info in storage.find(SAID)]
    tables = [data for path in sorted(said) if len(data := storage.read(path).splitlines()) > 1]
    if not tables:
        raise DescriptionsError("Nothing can be said of any unit: give more photographs, or a lower --gain.")
    everything = {
        neuron: descriptions
        for lines in tables
        for neuron, descriptions in by_neuron(read_descriptions(b"\n".join(lines))).items()
    }
    everything = balanced(everything, job.most_said, np.random.default_rng(job.seed))
    storage.write(ANNOTATIONS, descriptions_csv(everything))
    folders = sorted({neuron.layer for neuron in everything})
    arrays = [f"{folder}/{name}.npy" for folder in folders for name in ARRAYS]
    return [ANNOTATIONS, PHRASES, *arrays, *(f"photographs/{spec.part(i)}.npy" for i in range(len(spec.chunks())))]


def _pool(job: AnnotateJob) -> PoolConfig:
    return PoolConfig(num_workers=job.num_workers, num_gpus=gpus_a_worker(job.num_gpus), memory_gb=job.memory_gb)


def _summary(storage: Storage) -> str:
    """How many neurons have how many descriptions, and some of them."""
    said = by_neuron(read_descriptions(storage.read(ANNOTATIONS)))
    layers: dict[str, int] = {}
    for neuron in said:
        layers[neuron.layer] = layers.get(neuron.layer, 0) + 1
    lines = [f"{count:>8,} neurons of {layer}" for layer, count in sorted(layers.items())]
    some = list(said.items())[:: max(1, len(said) // 8)][:8]
    lines += [f"  {neuron.layer}/{neuron.unit}: {'; '.join(texts)}" for neuron, texts in some]
    return "\n".join([*lines, f"{len(said):,} annotated neurons"])


if __name__ == "__main__":
    sys.exit(runtime.main(AnnotateJob, run, plan=plan))
