"""Captions beside people's descriptions of the same neurons: what an evaluation scores, and where it comes from."""

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

import pyarrow as pa
import pyarrow.compute as pc

from jobs.engine.plan import PLAN, read_manifest
from jobs.engine.progress import Progress
from jobs.storage import Storage, absolute, redact, storage_for
from mami_core import contracts
from mami_core.errors import ConfigError, DescriptionsError
from mami_core.learning.descriptions import Neuron, by_neuron, read_descriptions
from mami_core.metrics.baselines import DescribedNeuron

logger = logging.getLogger(__name__)

_LAYERS_SHOWN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Captioned:
    """Neurons with captions and descriptions."""

    subject: str
    captioner: str
    neurons: list[DescribedNeuron]
    training: list[tuple[str, ...]]
    """What people said of the neurons that constant captions are chosen from."""
    notes: list[str]
    """What the reader of the scores should know: which neurons are left out, and how the constant was chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """The captions of one subject's neurons."""

    subject: str
    captioner: str
    captions: dict[Neuron, str | None]
    """In the table's order; None for a dead neuron, which has no caption."""


def from_labels(table: pa.Table, descriptions: str, *, where: str, training: str | None = None) -> Captioned:
    """The captions of one subject's labels, which are from `where`, beside the descriptions in a CSV file.

    `training` is a CSV file with the descriptions to choose constants from; by default they are those that are scored.

    Raises:
        ConfigError: labels of several subjects.
        DescriptionsError: if a file cannot be read, or no described neuron has a caption.
    """
    described = read_described(descriptions)
    chosen_from = read_described(training) if training else None
    labelled = _labelled(table, where)
    neurons = [
        DescribedNeuron(layer=neuron.layer, unit=neuron.unit, caption=caption, descriptions=described[neuron])
        for neuron, caption in labelled.captions.items()
        if caption is not None and neuron in described
    ]
    if not neurons:
        raise DescriptionsError(_nothing_in_common(labelled, described, where, redact(descriptions)))
    return Captioned(
        subject=labelled.subject,
        captioner=labelled.captioner,
        neurons=neurons,
        training=list(chosen_from.values()) if chosen_from else [neuron.descriptions for neuron in neurons],
        notes=_notes(labelled, described, own_constant=chosen_from is None),
    )


def read_described(url: str) -> dict[Neuron, tuple[str, ...]]:
    """Every neuron's descriptions, from a CSV file with the columns layer, unit and summary, local or `s3://`."""
    if not url.startswith("s3://"):
        return by_neuron(read_descriptions(absolute(url)))
    return by_neuron(read_descriptions(storage_for(url).read(url)))


def _labelled(table: pa.Table, where: str) -> Labelled:
    subjects = table["subject"].unique().to_pylist()
    if len(subjects) > 1:
        raise ConfigError(f"{where}: holds labels of {', '.join(sorted(subjects))}; choose one with --subject.")
    neurons = map(Neuron, table["layer"].to_pylist(), table["unit"].to_pylist())
    return Labelled(
        subject=subjects[0],
        captioner=", ".join(table["captioner"].unique().to_pylist()),
        captions=dict(zip(neurons, table["caption"].to_pylist(), strict=True)),
    )


def read_labels(url: str, columns: list[str], *, subject: str | None = None) -> pa.Table:
    """Some columns of the labels at `url`, "subject" among them: of one subject, or of all.

    `url` is a run's folder, its `labels` folder or any part of it, local or `s3://`.

    Raises:
        IncompleteRunError: if the run has not finished; its `labels` folder can be read all the same.
        ConfigError: if there is no labels table, or `subject` names none in it.
        ContractError: if a file there is no labels table of this version.
    """
    storage = storage_for(url)
    paths, parts = _label_files(storage, url), []
    logger.info("Reading the labels in %s", redact(url))
    with Progress("labels", total=len(paths), things="files") as progress:
        for path in paths:
            # Whole files in one request each: a part has few thousand rows.
            where = redact(storage.locate(path))
            parts.append(contracts.read_labels(storage.read(path), where=where, columns=columns))
            progress.advance(counters={"neurons": parts[-1].num_rows})
    return _of_subject(pa.concat_tables(parts), subject, redact(url))


def _label_files(storage: Storage, url: str) -> list[str]:
    """The table's files: those that a run's manifest lists, or all Parquet files at a place that is no run."""
    if storage.exists(PLAN):
        found = [file.path for file in read_manifest(storage).files if file.path.startswith("labels/")]
    else:
        found = [info.path for info in storage.find(absolute(url)) if info.path.endswith(".parquet")]
    if not found:
        raise ConfigError(
            f"{redact(url)}: expected the output of jobs.label, or its labels folder; found no Parquet file there."
        )
    return found


def _of_subject(table: pa.Table, subject: str | None, where: str) -> pa.Table:
    subjects = table["subject"].unique().to_pylist()
    if not table.num_rows or (subject is not None and subject not in subjects):
        raise ConfigError(
            f"{where}: expected labels of {subject or 'a subject'}, found {', '.join(subjects) or 'none'}."
        )
    return table if subject is None else table.filter(pc.field("subject") == subject)


def _notes(labelled: Labelled, described: dict[Neuron, tuple[str, ...]], *, own_constant: bool) -> list[str]:
    notes, captions = [], labelled.captions
    if absent := sum(neuron not in captions for neuron in described):
        notes.append(f"Left out: {absent:,} of {len(described):,} described neurons have no row in the labels table.")
    if dead := sum(neuron in captions and captions[neuron] is None for neuron in described):
        notes.append(f"Left out: {dead:,} described neurons are dead, so that they have no caption.")
    if own_constant:
        notes.append("The constant was chosen on the very descriptions that are scored: it is as strong as it can be.")
    return notes


def _nothing_in_common(labelled: Labelled, described: Iterable[Neuron], labels: str, descriptions: str) -> str:
    captions = [neuron for neuron, caption in labelled.captions.items() if caption is not None]
    return (
        f"No neuron has both a caption and a description. Captions in {labels}: {_layers(captions)}. Descriptions in "
        f"{descriptions}: {_layers(described)}. Layers must have the same names, units the same numbers."
    )


def _layers(neurons: Iterable[Neuron]) -> str:
    counts = Counter(neuron.layer for neuron in neurons)
    shown = [f"'{layer}' ({count} neurons)" for layer, count in islice(counts.items(), _LAYERS_SHOWN)]
    rest = [f"{len(counts) - _LAYERS_SHOWN} more layers"] if len(counts) > _LAYERS_SHOWN else []
    return ", ".join(shown + rest) or "none"
