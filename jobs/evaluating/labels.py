"""A labels table held against all that there is: what people said, what is known, other images, held-out images."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from jobs.evaluating import measured
from jobs.evaluating.halves import Halves
from jobs.evaluating.held_out import held_out_rows
from jobs.evaluating.measured import Truths
from jobs.evaluating.scored import Found, Means, compared_of, found_of
from jobs.storage import redact
from jobs.training.described import Captioned, from_labels, read_labels
from mami_core import contracts
from mami_core.captioners import SHIPPED
from mami_core.metrics.described import description_measures
from mami_core.metrics.measures import Rows, agreement_measures, support_measures, trust_measures, wording_measures
from mami_core.metrics.sentences import Sentences, load_sentences


@dataclass(frozen=True, slots=True, kw_only=True)
class ToMeasure:
    """A labels table, and what it is held against: all of it is read, and nothing computed."""

    url: str
    parts: list[tuple[Rows, pa.Table]]
    """Subject by subject."""
    captioned: Captioned | None
    """Beside people's descriptions, where there are any."""
    truths: list[Truths]
    others: pa.Table | None
    """Captions of the same neurons from other images."""
    halves: Halves | None
    scorer: str
    """Judges the constant captions."""
    identity: dict[str, Any]
    """What the measures follow from, as JSON values."""

    @staticmethod
    def of(
        labels: str,
        *,
        subject: str | None,
        descriptions: str | None,
        training_descriptions: str | None,
        known: Sequence[str],
        agree_with: str | None,
        halves: int,
        captioner: str | None,
        scorer: str,
        seed: int,
    ) -> "ToMeasure":
        """Everything by its name or place, as `jobs.evaluate` takes it.

        Raises:
            MamiError: naming what cannot be read, or has nothing in common with the labels.
        """
        table = read_labels(labels, measured.COLUMNS, subject=subject)
        captioned, others = None, None
        if descriptions is not None:
            captioned = from_labels(table, descriptions, where=redact(labels), training=training_descriptions)
        truths = measured.read_every_truth(known)
        if agree_with is not None:
            others = read_labels(agree_with, measured.COLUMNS, subject=subject)
        return ToMeasure(
            url=labels,
            parts=measured.by_subject(table, seed=seed),
            captioned=captioned,
            truths=truths,
            others=others,
            halves=Halves.of(labels, captioner or SHIPPED, most=halves) if halves else None,
            scorer=scorer,
            identity={
                "labels": _digest(table),
                "descriptions": captioned and _digest((captioned.neurons, captioned.training)),
                "known": [_digest((one.prefix, one.names, one.right_words, one.places)) for one in truths],
                "agree_with": None if others is None else _digest(others),
                "halves": halves,
                "scorer": scorer,
            },
        )

    def found(self, means: Means) -> Found:
        """Every measure that there is something for."""
        rows = {
            about.subject: support_measures(table, about)
            + trust_measures(table, about)
            + held_out_rows(self.url, self.scorer, about, table)
            for about, table in self.parts
        }
        compared = None
        if self.captioned is not None:
            compared = compared_of(self.captioned, means)
            ((about, _),) = self.parts  # people describe the neurons of one subject
            rows[about.subject] += description_measures(compared, about)
        if self.truths or self.others is not None or self.halves:
            for subject, more in self._by_meaning(load_sentences(device=means.device), means.device):
                rows[subject] += more
        for about, table in self.parts:
            rows[about.subject] += wording_measures(table, about)
        return found_of([row for of_subject in rows.values() for row in of_subject], self.captioned, compared)

    def _by_meaning(self, sentences: Sentences, device: str) -> list[tuple[str, list[dict]]]:
        """What sentence embeddings tell, each with its subject."""
        found = [pair for one in self.truths for pair in measured.known_rows(self.parts, one, sentences).items()]
        if self.others is not None:
            found += measured.agreement_rows(self.parts, self.others, sentences).items()
        if self.halves is not None:
            for about, _ in self.parts:
                one, other = self.halves.captions(about.subject, device=device)
                found.append((about.subject, agreement_measures(one, other, sentences, about)))
        return found


def _digest(what: Any) -> str:
    data = contracts.to_parquet(what, what.schema) if isinstance(what, pa.Table) else repr(what).encode()
    return hashlib.sha256(data).hexdigest()[:16]
