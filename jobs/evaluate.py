"""Scores captions: against what people said of the same neurons, and without any phrasing, in one table.

python -m jobs.evaluate --labels RUN --output MEASURES [--known TRUTHS.csv] [--halves 500]
python -m jobs.evaluate --labels RUN --descriptions PEOPLE.csv --output SCORES
python -m jobs.evaluate --captioner CAPTIONER --output SCORES

The first measures a run's captions: support, trust, neurons of which the truth is known, agreement, variety and
fluency. The second also holds them against people's descriptions; the third captions annotated neurons that the
captioner was not trained on, and holds them against theirs. All write `measures.parquet`, one row a measure and source
with its 95 % interval, beside shuffled and constant captions (docs/trust.md); where there are descriptions also
`scores.parquet`, which has them by length and layer. All write `summary.txt` and `run.json`, and print the summary. On
one CPU core, 3,000 neurons with three descriptions each take about 30 s, nearly all of it BERTScore.
"""

import dataclasses
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
import tyro

from jobs.engine import runtime
from jobs.engine.decode_options import BY_DEFAULT, CHOOSING, decode_of
from jobs.engine.foretold import Step, planned, reading
from jobs.engine.plan import MANIFEST, PLAN, begin, write_manifest
from jobs.evaluating.labels import ToMeasure
from jobs.evaluating.measured import PLANTED
from jobs.evaluating.scored import MEASURES, SCORES, Evaluation, Means
from jobs.storage import Storage, redact, storage_for
from jobs.storage.places import settle, settled
from mami_core import contracts
from mami_core.captioners import SHIPPED
from mami_core.captions.decode import DecodeConfig, Strategy
from mami_core.errors import ConfigError, RunMismatchError
from mami_core.metrics.bertscore import PACKAGED, BertScore, BertScoreConfig, load_bertscore
from mami_core.metrics.networks import network_folder
from mami_core.metrics.scorers import LEARNED

logger = logging.getLogger(__name__)

SUMMARY = "summary.txt"
_TABLES = {SCORES: contracts.SCORES, MEASURES: contracts.MEASURES}
_DECODE = dataclasses.replace(BY_DEFAULT, max_length=31)
"""Captions as long as descriptions that training learns, where neither the job nor the captioner says how."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateJob:
    """Score captions, with people's descriptions of the same neurons and without."""

    GROUPS: ClassVar[Mapping[str, Sequence[str]]] = {
        "Captions, and where to": ("labels", "subject", "captioner", "neurons", "images", "output"),
        "Beside what": ("descriptions", "training_descriptions", "known", "halves", "agree_with", "scorer"),
        "How a --captioner chooses": (*CHOOSING, "as_taught"),
        "Scores": ("bertscore", "bertscore_model", "bertscore_layers", "device", "seed"),
    }
    ADDRESSES: ClassVar = (
        "output",
        "labels",
        "agree_with",
        "descriptions",
        "training_descriptions",
        "images",
    )
    ADDRESSES_OR_NAMES: ClassVar = ("neurons", "captioner", "known")

    output: str
    """Folder or s3:// URL for the tables, summary.txt and run.json."""

    labels: str | None = None
    """Captions to score, as a labels table: a run's folder or its labels folder, local or s3://."""
    descriptions: str | None = None
    """What people said: a CSV file with the columns layer, unit and summary, one line a person and neuron."""
    subject: str | None = None
    """Which subject's labels, where the table holds several; without descriptions, by default each of them."""
    training_descriptions: str | None = None
    """Descriptions of other neurons, in such a file, to choose the constant captions from. By default they come from
    the descriptions that are scored, which makes them a little stronger than they could be."""

    known: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Neurons of which it is known what they look for: a CSV file with the columns layer, unit, name and perhaps
    wordnet (an id such as n02084071, for nltk's WordNet) and subject; or planted, where a subject is the network that
    the project built for this: python:mami_core.metrics.planted:planted. May be given several times: the measures by
    several files bear the files' names."""
    halves: int = 0
    """So many neurons, taken evenly, are captioned twice more, from every other of their exemplars: do the captions
    agree? Needs the run's _work folder and, where it is not the project's own, its --captioner."""
    agree_with: str | None = None
    """Captions of the same neurons from other images, to agree with: a labels table, as for --labels."""
    scorer: str = LEARNED
    """Judges the constant caption, where the labels were judged by the same and their run's _work folder is still
    there; none leaves it out."""

    captioner: str | None = None
    """Captions to score, made now: a captioner's folder, local or s3://, as mami train leaves it. With --halves, the
    run's captioner."""
    neurons: str = "generated"
    """Annotated neurons for it to caption: a folder in MILANNOTATIONS' layout, or those that the project makes."""
    images: str | None = None
    """The images that the folder's ids.csv numbers, where it has no images.npy; local or s3://."""
    strategy: Strategy | None = None
    """How it chooses captions: mutual information after or during the beam search, or likelihood alone. By default, as
    the following five, the captioner's own way if it has one, otherwise rerank."""
    beam_size: int | None = None
    """Captions that it follows at the same time; by default 50."""
    lm_weight: float | None = None
    """λ in log p(caption|exemplars) − λ log p(caption); by default 0.2."""
    length_penalty: float | None = None
    """Captions are compared by that, divided by (number of words)^length_penalty; by default 0.7."""
    evidence_weight: float | None = None
    """How much is added to that for being borne out by the exemplars, up to four times so much. By default as the
    captioner says; 0 for one that was not taught what exemplars show."""
    max_length: int | None = None
    """The most words of a caption; by default 31, as in training: long enough for long descriptions."""
    as_taught: bool = True
    """Let captions leave the sequences of words that it was taught."""

    bertscore: bool = True
    """Leave BERTScore out beside BLEU: it takes most of the time."""
    bertscore_model: str = PACKAGED
    """The network for BERTScore: a folder, or the name of one in this machine's cache. Nothing is downloaded."""
    bertscore_layers: int | None = None
    """Which of its layers to compare; by default the one that is recommended for it."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where networks run; auto takes the GPU where there is one."""
    seed: int = 0
    """Decides which neuron's caption a neuron gets in the shuffled baseline."""

    def __post_init__(self) -> None:
        settle(self)
        if Path(self.bertscore_model).exists():
            object.__setattr__(self, "bertscore_model", settled(self.bertscore_model))
        if (self.labels is None) == (self.captioner is None) and not (self.labels and self.halves):
            raise ConfigError("expected either --labels or --captioner: which captions to score.")
        if self.labels is None and (self.known or self.agree_with or self.halves):
            raise ConfigError("--known, --halves and --agree-with go with --labels: they measure captions of a run.")
        if self.labels is None and (self.descriptions or self.training_descriptions or self.subject):
            raise ConfigError("--captioner: descriptions come with its --neurons; --descriptions goes with --labels.")
        if self.halves < 0:
            raise ConfigError(f"--halves is a number of neurons, got {self.halves}.")


def run(job: EvaluateJob) -> None:
    """Score what the job names, write the tables and print their summary; where they are there already, print it."""
    storage = storage_for(job.output)
    _refuse_other_scores(storage)
    if _compares(job):
        network_folder(job.bertscore_model)  # refused at once where it is not here, and loaded when all else is read
    evaluation = _to_measure(job, job.labels) if job.labels is not None else _to_caption(job, job.captioner or "")
    bertscore = _bertscore(job)
    config = evaluation.identity | {"bertscore": bertscore.name if bertscore else None, "seed": job.seed}
    tables = dict(map(contracts.identity, _TABLES.values()))
    with begin(storage, {"evaluation": config, "tables": tables}) as plan:
        if storage.exists(MANIFEST):
            logger.info("%s holds these scores already; nothing was done.", redact(storage.url))
        else:
            runtime.write_run_json(storage, job, seed=job.seed)
            found = evaluation.found(Means(bertscore=bertscore, device=_device(job.device), seed=job.seed))
            for name, table in found.tables.items():
                storage.write(name, contracts.to_parquet(table, _TABLES[name]))
            storage.write(SUMMARY, redact(found.text).encode())
            write_manifest(storage, plan, [*found.tables, SUMMARY])
    there = [name for name in _TABLES if storage.exists(name)]
    reading = "\n".join(f"pandas.read_parquet({storage.locate(name)!r})" for name in there)
    runtime.show(f"{storage.read(SUMMARY).decode()}\n{reading}")


def plan(job: EvaluateJob) -> str:
    """What `run` would do."""
    steps = []
    runs = {"labels": job.labels, "labels to agree with": job.agree_with}
    for name, url in runs.items():
        if url is not None:
            storage = storage_for(url)
            steps.append(reading(name, storage, "labels" if storage.find("labels") else ""))
    if job.captioner is not None and job.captioner != SHIPPED:
        steps.append(reading("captioner", storage_for(job.captioner), ""))
    if job.captioner is not None or job.halves:
        steps.append(Step(name="captions", items=2 * job.halves or 1, requests=0, seconds=None))
    files = {"descriptions": job.descriptions, "training descriptions": job.training_descriptions}
    files |= {f"known {number}": known for number, known in enumerate(job.known, start=1) if known != PLANTED}
    for name, file in files.items():
        if file is not None:
            steps.append(reading(name, storage_for(file.rpartition("/")[0] or "/"), file))
    steps.append(Step(name="scores", items=3, bytes_written=None, seconds=None if _compares(job) else 10.0))
    what = f"captions of {redact(job.labels or job.captioner or '')}"
    notes = ["BERTScore: about 10 ms a neuron with three descriptions."] if _compares(job) else []
    return planned(f"Scoring the {what}", steps, into=job.output, notes=notes)


def _refuse_other_scores(storage: Storage) -> None:
    """A place with scores that do not say where they come from is left alone.

    Raises:
        RunMismatchError: naming the place.
    """
    if any(map(storage.exists, _TABLES)) and not storage.exists(PLAN):
        raise RunMismatchError(f"{redact(storage.url)} holds other scores. Choose another output folder.")


def _to_measure(job: EvaluateJob, labels: str) -> Evaluation:
    return ToMeasure.of(
        labels,
        subject=job.subject,
        descriptions=job.descriptions,
        training_descriptions=job.training_descriptions,
        known=job.known,
        agree_with=job.agree_with,
        halves=job.halves,
        captioner=job.captioner,
        scorer=job.scorer,
        seed=job.seed,
    )


def _to_caption(job: EvaluateJob, captioner: str) -> Evaluation:
    from jobs.evaluating.captioning import ToCaption  # all of the networks: seconds that a labels table does not need

    def decode(own: DecodeConfig | None) -> DecodeConfig:
        return decode_of(job, own, by_default=_DECODE)

    return ToCaption.of(captioner, job.neurons, decode, images=job.images)


def _device(name: str) -> str:
    found = torch.cuda.is_available()
    if name == "cuda" and not found:
        raise ConfigError("--device cuda: no GPU that torch can use is here. Leave it out, or give cpu.")
    return ("cuda" if found else "cpu") if name == "auto" else name


def _compares(job: EvaluateJob) -> bool:
    """Whether BERTScore compares captions with descriptions."""
    return job.bertscore and (job.labels is None or job.descriptions is not None)


def _bertscore(job: EvaluateJob) -> BertScore | None:
    """None where it is left out, or there are no descriptions."""
    if not _compares(job):
        return None
    config = BertScoreConfig(model=job.bertscore_model, num_layers=job.bertscore_layers, device=_device(job.device))
    logger.info("Loading %s for BERTScore", config.model)
    return load_bertscore(config)


if __name__ == "__main__":
    sys.exit(runtime.main(EvaluateJob, run, plan=plan))
