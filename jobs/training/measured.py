"""A labels table → measures that do not depend on phrasing: what `jobs.evaluate` adds to BLEU and BERTScore."""

import csv
import io
from dataclasses import dataclass

import pyarrow as pa

from jobs.storage import absolute, redact, storage_for
from jobs.training.described import read_labels
from mami_core.errors import ConfigError
from mami_core.metrics import measures, planted
from mami_core.metrics.known import right_words
from mami_core.metrics.measures import Known, Rows
from mami_core.metrics.sentences import Sentences

PLANTED = "planted"
"""Names what `mami_core.metrics.planted` built, instead of a file."""

_COLUMNS = [
    "subject",
    "layer",
    "unit",
    "caption",
    "log_p_language",
    "captioner",
    "trust",
    "trust_auprc",
    "trust_shuffled",
    "scorer",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Captions that are measured, and what was found."""

    labels: pa.Table
    about: Rows
    rows: list[dict]


def measure(
    labels: str,
    sentences: Sentences,
    *,
    subject: str | None,
    known: str | None,
    agree_with: str | None,
    seed: int,
) -> Measured:
    """Every measure that the table, and what is given beside it, allow.

    Args:
        labels: The run's folder, or its labels folder.
        sentences: Compares meanings.
        subject: Which subject's labels, where the table holds several.
        known: "planted", or a CSV file with the columns layer, unit, name and perhaps wordnet (an id such as
            n02084071): what each of these neurons is known to look for.
        agree_with: Labels of the same neurons from other exemplars.
        seed: Of the bootstrap.

    Raises:
        ConfigError: a file that cannot be read, or has no neuron in common with the labels.
    """
    table = read_labels(labels, _COLUMNS, subject=subject)
    captioner = ", ".join(table["captioner"].unique().to_pylist())
    about = Rows(subject=table["subject"][0].as_py(), captioner=captioner, seed=seed)
    captions = _captions(table)
    rows = measures.trust_measures(table, about)
    if known is not None:
        prefix = PLANTED if known == PLANTED else "known"
        rows += measures.known_measures(_known(known, captions), sentences, about, prefix=prefix)
    if agree_with is not None:
        others = _captions(read_labels(agree_with, _COLUMNS, subject=subject))
        both = [neuron for neuron in captions if neuron in others]
        if not both:
            raise ConfigError(f"{redact(agree_with)} and {redact(labels)} have captions of no neuron in common.")
        pairs = [captions[neuron] for neuron in both], [others[neuron] for neuron in both]
        rows += measures.agreement_measures(*pairs, sentences, about)
    return Measured(labels=table, about=about, rows=rows + measures.wording_measures(table, about))


def _captions(table: pa.Table) -> dict[tuple[str, int], str]:
    columns = (table[name].to_pylist() for name in ("layer", "unit", "caption"))
    return {(layer, unit): caption for layer, unit, caption in zip(*columns, strict=True) if caption is not None}


def _known(known: str, captions: dict[tuple[str, int], str]) -> Known:
    if known == PLANTED:
        truths = {("units", unit): unit for unit in range(len(planted.NAMES))}
        names, right = list(planted.NAMES), planted.RIGHT_WORDS
    else:
        rows = _read(known)
        entries = list(dict.fromkeys((row["name"], row.get("wordnet") or "") for row in rows))
        places = {entry: place for place, entry in enumerate(entries)}
        truths = {(row["layer"], int(row["unit"])): places[row["name"], row.get("wordnet") or ""] for row in rows}
        names = [name for name, _ in entries]
        right = right_words([wordnet for _, wordnet in entries]) if all(wordnet for _, wordnet in entries) else None
    both = [neuron for neuron in captions if neuron in truths]
    if not both:
        raise ConfigError(f"{redact(known)}: none of its neurons has a caption. Layers must have the same names.")
    said = [captions[neuron] for neuron in both]
    return Known(captions=said, truths=[truths[neuron] for neuron in both], names=names, right_words=right)


def _read(url: str) -> list[dict[str, str]]:
    data = storage_for(url).read(url) if "://" in url else storage_for(".").read(absolute(url))
    try:
        rows = list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"))))
        missing = {"layer", "unit", "name"} - set(rows[0] if rows else ())
        if missing or not all(row["unit"].isdigit() for row in rows):
            raise ValueError(f"found {list(rows[0]) if rows else 'no row'}")
    except (ValueError, AttributeError, csv.Error) as error:
        raise ConfigError(
            f"{redact(url)}: expected a CSV file with layer, unit (a number) and name: {error}"
        ) from error
    return rows
