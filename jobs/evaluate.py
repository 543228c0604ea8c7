"""Scores captions: against what people said of the same neurons (BLEU and BERTScore), and without any phrasing.

python -m jobs.evaluate --labels RUN --output MEASURES [--known TRUTHS.csv] [--agree-with RUN]
python -m jobs.evaluate --labels RUN --descriptions PEOPLE.csv --output SCORES
python -m jobs.evaluate --captioner CAPTIONER --output SCORES

The first writes `measures.parquet`: trust, neurons of which the truth is known, agreement, variety and fluency, each
with its 95 % interval and beside shuffled and constant captions (docs/trust.md). The second holds the same labels
against people's descriptions; the third captions annotated neurons that the captioner was not trained on; both write
`scores.parquet`. All write `summary.txt` and `run.json`, and print the summary. On one CPU core, 3,000 neurons with
three descriptions each take about 30 s, nearly all of it BERTScore.
"""

import hashlib
import logging
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa
import torch

from jobs.engine import runtime
from jobs.engine.foretold import Step, planned, reading
from jobs.engine.plan import MANIFEST, PLAN, begin, find_plan, write_manifest
from jobs.engine.progress import Progress
from jobs.labelling.judges import trust_of_constant
from jobs.storage import Storage, redact, storage_for
from jobs.storage.places import settle, settled
from jobs.training.described import Captioned, from_labels
from jobs.training.measured import Measured, measure
from mami_core import contracts
from mami_core.captions.decode import DecodeConfig, Strategy
from mami_core.errors import ConfigError, RunMismatchError
from mami_core.metrics.baselines import DescribedNeuron
from mami_core.metrics.bertscore import PACKAGED, BertScore, BertScoreConfig, load_bertscore
from mami_core.metrics.measures import commonest, measures_table, measures_text
from mami_core.metrics.scorers import LEARNED, NONE, load_scorer
from mami_core.metrics.sentences import load_sentences
from mami_core.metrics.summary import summary
from mami_core.metrics.table import score_neurons

logger = logging.getLogger(__name__)

SCORES, MEASURES, SUMMARY = "scores.parquet", "measures.parquet", "summary.txt"
_DECODE = DecodeConfig(length_penalty=0.7, max_length=31)
"""How captions are chosen where neither the job nor the captioner says otherwise."""
_EXAMPLES = 5
"""So many neurons are shown with their captions below the scores, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateJob:
    """Score captions: against people's descriptions of the same neurons, and by what drives the neurons."""

    GROUPS: ClassVar[Mapping[str, Sequence[str]]] = {
        "Captions, and where to": ("labels", "subject", "captioner", "neurons", "output"),
        "Beside what": ("descriptions", "training_descriptions", "known", "agree_with", "scorer"),
        "How a --captioner chooses": ("strategy", "beam_size", "lm_weight", "length_penalty", "max_length"),
        "Scores": ("bertscore", "bertscore_model", "bertscore_layers", "device", "seed"),
    }
    ADDRESSES: ClassVar = (
        "output",
        "labels",
        "known",
        "agree_with",
        "descriptions",
        "training_descriptions",
        "captioner",
        "images",
    )
    ADDRESSES_OR_NAMES: ClassVar = ("neurons",)

    output: str
    """Folder or s3:// URL for scores.parquet, summary.txt and run.json."""

    labels: str | None = None
    """Captions to score, as a labels table: a run's folder or its labels folder, local or s3://."""
    descriptions: str | None = None
    """What people said: a CSV file with the columns layer, unit and summary, one line a person and neuron."""
    subject: str | None = None
    """Which subject's labels, where the table holds several."""
    training_descriptions: str | None = None
    """Descriptions of other neurons, in such a file, to choose the constant captions from. By default they come from
    the descriptions that are scored, which makes them a little stronger than they could be."""

    known: str | None = None
    """Neurons of which it is known what they look for: a CSV file with the columns layer, unit, name and perhaps
    wordnet (an id such as n02084071, for nltk's WordNet), or planted, where the subject is the network that the project
    built for this: python:mami_core.metrics.planted:planted."""
    agree_with: str | None = None
    """Captions of the same neurons from other exemplars, such as those of the other half of the images: a labels table,
    as for --labels."""
    scorer: str = LEARNED
    """Judges the constant caption, where the labels were judged by the same and their run's _work folder is still
    there; none leaves it out."""

    captioner: str | None = None
    """Captions to score, made now: a captioner's folder, local or s3://, as mami train leaves it."""
    neurons: str = "generated"
    """Annotated neurons for it to caption: a folder in MILANNOTATIONS' layout, or those that the project makes."""
    images: str | None = None
    """The images that the folder's ids.csv numbers, where it has no images.npy; local or s3://."""
    strategy: Strategy | None = None
    """How it chooses captions: mutual information after or during the beam search, or likelihood alone. By default, as
    the following four, the captioner's own way if it has one, otherwise rerank."""
    beam_size: int | None = None
    """Captions that it follows at the same time; by default 50."""
    lm_weight: float | None = None
    """λ in log p(caption|exemplars) − λ log p(caption); by default 0.2."""
    length_penalty: float | None = None
    """Captions are compared by that, divided by (number of words)^length_penalty; by default 0.7."""
    max_length: int | None = None
    """The most words of a caption; by default 31, as in training: long enough for long descriptions."""

    bertscore: bool = True
    """Whether BERTScore is computed beside BLEU; --no-bertscore leaves it out."""
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
        if (self.labels is None) == (self.captioner is None):
            raise ConfigError("expected either --labels or --captioner: which captions to score.")
        if (self.known or self.agree_with) and (self.labels is None or self.descriptions is not None):
            raise ConfigError("--known and --agree-with go with --labels alone: they measure captions of a run.")
        if self.captioner is not None and (self.descriptions or self.training_descriptions or self.subject):
            raise ConfigError("--captioner: descriptions come with its --neurons; --descriptions goes with --labels.")


def run(job: EvaluateJob) -> None:
    """Score what the job names, write the scores and print their summary; where they are there already, print it."""
    storage = storage_for(job.output)
    if job.labels is not None and job.descriptions is None:
        _measure(job, job.labels, storage)
        return
    _refuse_other_scores(storage)
    bertscore = _bertscore(job)
    captioned = _captioned(job)
    with begin(storage, _config(job, captioned, bertscore)) as plan:
        if storage.exists(MANIFEST):
            logger.info("%s holds these scores already; nothing was done.", redact(storage.url))
        else:
            runtime.write_run_json(storage, job, seed=job.seed)
            scores = _score(captioned, bertscore, torch.Generator().manual_seed(job.seed))
            text = "\n".join([summary(scores), *captioned.notes, "", *_examples(captioned.neurons), ""])
            storage.write(SCORES, contracts.to_parquet(scores, contracts.SCORES))
            storage.write(SUMMARY, redact(text).encode())
            write_manifest(storage, plan, [SCORES, SUMMARY])
    runtime.show(f"{storage.read(SUMMARY).decode()}\npandas.read_parquet({storage.locate(SCORES)!r})")


def plan(job: EvaluateJob) -> str:
    """What `run` would do."""
    steps = []
    runs = {"labels": job.labels, "labels to agree with": job.agree_with}
    for name, url in runs.items():
        if url is not None:
            storage = storage_for(url)
            steps.append(reading(name, storage, "labels" if storage.find("labels") else ""))
    if job.captioner is not None:
        steps += [reading("captioner", storage_for(job.captioner), ""), Step(name="captions", seconds=None)]
    for name in ("descriptions", "training_descriptions", "known"):
        if (file := getattr(job, name)) is not None:
            steps.append(reading(name, storage_for(file.rpartition("/")[0] or "/"), file))
    bertscore = job.bertscore and (job.descriptions or job.captioner)
    steps.append(Step(name="scores", items=3, bytes_written=None, seconds=None if bertscore else 10.0))
    what = f"captions of {redact(job.labels or job.captioner or '')}"
    notes = ["BERTScore: about 10 ms a neuron with three descriptions."] if bertscore else []
    return planned(f"Scoring the {what}", steps, into=job.output, notes=notes)


def _measure(job: EvaluateJob, labels: str, storage: Storage) -> None:
    """Write and print what can be said of a run's captions without people's."""
    _refuse_other_scores(storage)
    with begin(storage, _measured_config(job, labels)) as plan:
        if storage.exists(MANIFEST):
            logger.info("%s holds these measures already; nothing was done.", redact(storage.url))
        else:
            runtime.write_run_json(storage, job, seed=job.seed)
            sentences = load_sentences(device=_device(job.device))
            measured = measure(
                labels, sentences, subject=job.subject, known=job.known, agree_with=job.agree_with, seed=job.seed
            )
            found = measures_table(_of_constant(job, labels, measured) + measured.rows)
            storage.write(MEASURES, contracts.to_parquet(found, contracts.MEASURES))
            storage.write(SUMMARY, redact(measures_text(found)).encode())
            write_manifest(storage, plan, [MEASURES, SUMMARY])
    runtime.show(f"{storage.read(SUMMARY).decode()}\npandas.read_parquet({storage.locate(MEASURES)!r})")


def _measured_config(job: EvaluateJob, labels: str) -> dict[str, Any]:
    """What makes these measures what they are."""
    return {
        "measures": {
            "labels": _identity(labels),
            "agree_with": job.agree_with and _identity(job.agree_with),
            "known": job.known and hashlib.sha256(storage_for(job.known).read(job.known)).hexdigest()[:16],
            "subject": job.subject,
            "scorer": job.scorer,
            "seed": job.seed,
        },
        "tables": dict([contracts.identity(contracts.MEASURES)]),
    }


def _identity(labels: str) -> str:
    """A labels table by its run, or where there is none by its place."""
    run = find_plan(storage_for(labels))
    return run.fingerprint if run else labels


def _of_constant(job: EvaluateJob, labels: str, measured: Measured) -> list[dict]:
    """The trust of the commonest caption said of every neuron: its scorer and what it saw must still be there."""
    names = set(measured.labels["scorer"].drop_null().to_pylist())
    storage = storage_for(labels)
    plan = find_plan(storage)
    if job.scorer == NONE or not names or plan is None or not storage.find("_work/watched"):
        return []
    scorer = load_scorer(job.scorer)
    if names != {scorer.name}:
        logger.warning("The labels were judged by %s, not by %s: no constant beside them.", names, scorer.name)
        return []
    text = commonest(measured.labels["caption"].drop_null().to_pylist())
    about = measured.about
    trust = trust_of_constant(storage, plan.config, about.subject, text, scorer)
    return list(about.of("trust", "constant", trust, judge=scorer.name, text=text))


def _refuse_other_scores(storage: Storage) -> None:
    """A place with scores that do not say where they come from is left alone.

    Raises:
        RunMismatchError: naming the place.
    """
    if (storage.exists(SCORES) or storage.exists(MEASURES)) and not storage.exists(PLAN):
        raise RunMismatchError(f"{redact(storage.url)} holds other scores. Choose another output folder.")


def _config(job: EvaluateJob, captioned: Captioned, bertscore: BertScore | None) -> dict[str, Any]:
    """What makes these scores what they are."""
    said = repr((captioned.subject, captioned.neurons, captioned.training)).encode()
    return {
        "scores": {
            "captions": hashlib.sha256(said).hexdigest()[:16],
            "captioner": captioned.captioner,
            "bertscore": bertscore.name if bertscore else None,
            "seed": job.seed,
        },
        "tables": dict([contracts.identity(contracts.SCORES)]),
    }


def _examples(neurons: Sequence[DescribedNeuron]) -> list[str]:
    """Some captions as they are, taken evenly from all."""
    some = neurons[:: -(-len(neurons) // _EXAMPLES)]
    return [f"{one.layer}/{one.unit}: {one.caption}  |  people: {'; '.join(one.descriptions)}" for one in some]


def _captioned(job: EvaluateJob) -> Captioned:
    if job.labels is not None and job.descriptions is not None:
        return from_labels(job.labels, job.descriptions, subject=job.subject, training=job.training_descriptions)
    assert job.captioner is not None, "the job names labels or a captioner"
    from jobs.training.captioning import (
        from_captioner,  # all of the networks: seconds that a labels table does not need
    )

    def decode(own: DecodeConfig | None) -> DecodeConfig:
        return (own or _DECODE).changed(
            strategy=job.strategy,
            beam_size=job.beam_size,
            lm_weight=job.lm_weight,
            length_penalty=job.length_penalty,
            max_length=job.max_length,
        )

    return from_captioner(job.captioner, job.neurons, decode, images=job.images, device=_device(job.device))


def _device(name: str) -> str:
    found = torch.cuda.is_available()
    if name == "cuda" and not found:
        raise ConfigError("--device cuda: no GPU that torch can use is here. Leave it out, or give cpu.")
    return ("cuda" if found else "cpu") if name == "auto" else name


def _bertscore(job: EvaluateJob) -> BertScore | None:
    if not job.bertscore:
        return None
    config = BertScoreConfig(model=job.bertscore_model, num_layers=job.bertscore_layers, device=_device(job.device))
    logger.info("Loading %s for BERTScore", config.model)
    return load_bertscore(config)


def _score(captioned: Captioned, bertscore: BertScore | None, generator: torch.Generator) -> pa.Table:
    logger.info("Scoring the captions of %d neurons", len(captioned.neurons))
    with Progress("BERTScore", total=1, things="pairs") if bertscore else nullcontext() as bar:

        def tell(done: int, total: int) -> None:
            if bar is not None:
                bar.done, bar.total = done, total

        return score_neurons(
            captioned.neurons,
            training=captioned.training,
            generator=generator,
            bertscore=bertscore,
            subject=captioned.subject,
            captioner=captioned.captioner,
            progress=tell,
        )


if __name__ == "__main__":
    sys.exit(runtime.main(EvaluateJob, run, plan=plan))
