"""A labels table → measures that do not depend on phrasing: what `jobs.evaluate` adds to BLEU and BERTScore."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import pyarrow as pa

from jobs.storage import absolute, redact, storage_for
from mami_core.errors import ConfigError
from mami_core.metrics import measures, planted
from mami_core.metrics.known import right_words
from mami_core.metrics.measures import Known, Rows
from mami_core.metrics.sentences import Sentences

PLANTED = "planted"
"""Names what `mami_core.metrics.planted` built, instead of a file."""

COLUMNS = [
    "subject",
    "layer",
    "unit",
    "caption",
    "beams",
    "log_p_language",
    "captioner",
    "run",
    "support",
    "trust",
    "trust_auprc",
    "trust_shuffled",
    "scorer",
]
"""What measures need of a labels table."""

_Captions = dict[tuple[str, int], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Truths:
    """Neurons of which it is known what they look for."""

    where: str
    prefix: str
    """Begins the names of their measures."""
    names: list[str]
    right_words: Sequence[Sequence[str]] | None
    places: dict[tuple[str | None, str, int], int]
    """By subject (None: of any), layer and unit: which of the names."""

    def of(self, subject: str, captions: _Captions) -> Known | None:
        """Those of one subject that have a caption; None where there is none."""
        places = {neuron: self.places.get((subject, *neuron), self.places.get((None, *neuron))) for neuron in captions}
        both = {neuron: place for neuron, place in places.items() if place is not None}
        if not both:
            return None
        said, truths = [captions[neuron] for neuron in both], list(both.values())
        return Known(captions=said, truths=truths, names=self.names, right_words=self.right_words)


def read_every_truth(known: Sequence[str]) -> list[Truths]:
    """What `read_truths` gives for each of these; measures by several files bear the files' names.

    Raises:
        ConfigError: as `read_truths`; or files of one name, whose measures nobody could tell apart.
    """
    found = [read_truths(one) for one in known]
    if sum(one != PLANTED for one in known) > 1:
        found = [
            truths if one == PLANTED else replace(truths, prefix=f"known ({PurePosixPath(one).stem})")
            for one, truths in zip(known, found, strict=True)
        ]
    if len({truths.prefix for truths in found}) < len(found):
        raise ConfigError("--known: measures by several files bear the files' names. Give each file another name.")
    return found


def read_truths(known: str) -> Truths:
    """The neurons that a file says, or those that the project planted.

    Args:
        known: "planted", or a CSV file with the columns layer, unit, name and perhaps wordnet (an id such as
            n02084071) and subject: what each of these neurons is known to look for.

    Raises:
        ConfigError: a file that cannot be read.
    """
    if known == PLANTED:
        return Truths(
            where=PLANTED,
            prefix=PLANTED,
            names=list(planted.NAMES),
            right_words=planted.RIGHT_WORDS,
            places={(None, "units", unit): unit for unit in range(len(planted.NAMES))},
        )
    rows = _read(known)
    entries = list(dict.fromkeys(map(_entry, rows)))
    numbers = {entry: number for number, entry in enumerate(entries)}
    ids = [wordnet for _, wordnet in entries]
    return Truths(
        where=redact(known),
        prefix="known",
        names=[name for name, _ in entries],
        right_words=right_words(ids) if all(ids) else None,
        places={(row.get("subject") or None, row["layer"], int(row["unit"])): numbers[_entry(row)] for row in rows},
    )


def _entry(row: dict[str, str]) -> tuple[str, str]:
    return row["name"], row.get("wordnet") or ""


def by_subject(table: pa.Table, *, seed: int) -> list[tuple[Rows, pa.Table]]:
    """A labels table subject by subject, with what the rows of each have in common."""
    subjects = table["subject"].to_pylist()
    parts = []
    for subject in dict.fromkeys(subjects):
        part = table.filter(pa.array([one == subject for one in subjects]))
        captioner = ", ".join(part["captioner"].unique().to_pylist())
        parts.append((Rows(subject=subject, captioner=captioner, seed=seed), part))
    return parts


def known_rows(parts: list[tuple[Rows, pa.Table]], truths: Truths, sentences: Sentences) -> dict[str, list[dict]]:
    """How well captions name what their neurons are known to look for, by subject.

    Raises:
        ConfigError: none of these neurons has a caption.
    """
    found = {about.subject: truths.of(about.subject, captions_of(table)) for about, table in parts}
    if not any(found.values()):
        raise ConfigError(f"{truths.where}: none of its neurons has a caption. Layers must have the same names.")
    return {
        about.subject: measures.known_measures(known, sentences, about, prefix=truths.prefix)
        for about, _ in parts
        if (known := found[about.subject])
    }


def agreement_rows(parts: list[tuple[Rows, pa.Table]], others: pa.Table, sentences: Sentences) -> dict[str, list[dict]]:
    """How far captions agree with other captions of the same neurons, by subject.

    Raises:
        ConfigError: no neuron has both.
    """
    of_others = {about.subject: captions_of(table) for about, table in by_subject(others, seed=0)}
    if len(parts) == len(of_others) == 1:  # whatever the two runs call it
        of_others = dict(zip([about.subject for about, _ in parts], of_others.values(), strict=True))
    found = {}
    for about, table in parts:
        captions, of_other = captions_of(table), of_others.get(about.subject, {})
        if both := [neuron for neuron in captions if neuron in of_other]:
            pairs = [captions[neuron] for neuron in both], [of_other[neuron] for neuron in both]
            found[about.subject] = measures.agreement_measures(*pairs, sentences, about)
    if not found:
        raise ConfigError("--agree-with has captions of no neuron in common with --labels.")
    return found


def captions_of(table: pa.Table) -> _Captions:
    """The caption of every neuron of one subject that has one."""
    columns = (table[name].to_pylist() for name in ("layer", "unit", "caption"))
    return {(layer, unit): caption for layer, unit, caption in zip(*columns, strict=True) if caption is not None}


def _read(url: str) -> list[dict[str, str]]:
    data = storage_for(url).read(url) if "://" in url else storage_for(".").read(absolute(url))
    try:
        rows = list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"))))
        if missing := {"layer", "unit", "name"} - set(rows[0] if rows else ()):
            raise ValueError(f"{', '.join(sorted(missing))} missing, found {list(rows[0]) if rows else 'no row'}")
        for number, row in enumerate(rows, start=1):
            if not (row["layer"] and row["name"] and (row["unit"] or "").isdecimal()):
                raise ValueError(f"row {number} has {row['layer']!r}, {row['unit']!r} and {row['name']!r}")
    except (ValueError, csv.Error) as error:
        raise ConfigError(
            f"{redact(url)}: expected a CSV file with layer, unit (a number) and name: {error}."
        ) from error
    return rows
