"""What a run says in the end: the labels, and what is missing from them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

import pyarrow as pa

from mami_core.contracts.arrow import check, identity, parquet, required, table


@dataclass(frozen=True, slots=True, kw_only=True)
class Beam:
    """One caption that the search proposed, with its scores (natural logarithms).

    An "often" that its support put before it, or took away, counts in none of them (`captions.quantity`).
    """

    caption: str
    score: float
    log_p_caption: float
    log_p_language: float | None
    """None where the captioner has no language model."""
    support: float | None = None
    """The share of the exemplars of which the caption is true, as the captioner's evidence has it
    (`captions.evidence`); None where it has none, or where nothing tells: the caption claims nothing that it knows, or
    the exemplars are whole images, as those of class scores are. Coarse words ("grey", "man made things") count as true
    of nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelsRow:
    """What we say of one neuron. Scores are null exactly where the neuron is dead."""

    subject: str
    layer: str
    unit: int
    caption: str | None
    score: float | None
    """What the caption was chosen by: log p(c|E) − λ log p(c), or log p(c|E) alone for likelihood decoding, divided by
    (number of words)^length_penalty."""
    log_p_caption: float | None
    """log p(c | E): how likely the captioner finds the caption for these exemplars."""
    log_p_language: float | None
    """log p(c): how likely the language model finds the caption by itself."""
    beams: list[Beam]
    """The best captions, best first; the first is the caption."""
    exemplar_images: list[str]
    """The names of the images that drive the neuron highest, strongest first."""
    exemplar_activations: list[float]
    threshold: float
    active_fraction: float
    dead: bool
    """Whether the neuron was active on no image at all; it then has no caption."""
    captioner: str
    """Identifies the captioner's weights."""
    run: str
    """Identifies the run: the fingerprint of its configuration."""
    support: float | None = None
    """The caption's, as of its beam. Null in tables of versions 1 and 2."""
    trust: float | None = None
    """How well the neuron's activations on held-out images, which chose no exemplar, go with what a scorer expects of
    the caption alone: Pearson's correlation. Null where nobody judged, or where nothing varies."""
    trust_auprc: float | None = None
    """The average precision with which the scorer finds the held-out images that drive the neuron highest (one in
    twenty): chance is .05 with thousands of images, and more with few."""
    trust_shuffled: float | None = None
    """`trust` of the caption of another neuron of the same layer: what this neuron's own has to beat."""
    weights: str | None = None
    """Identifies the subject's weights: two subjects of the same are the same network. Null in tables of version 1."""
    end: str | None = None
    """Which end of the unit's values the exemplars are from: "highest", or "lowest". Null in tables of version 1."""
    scorer: str | None = None
    """Who judged: the image–text scorer and what identifies it; trust of different scorers does not compare."""


def _beams(*numbers: pa.Field) -> pa.Field:
    always = [
        required("caption", pa.string()),
        required("score", pa.float32()),
        required("log_p_caption", pa.float32()),
    ]
    return required("beams", pa.list_(required("item", pa.struct([*always, *numbers]))))


_LANGUAGE, _SUPPORT = pa.field("log_p_language", pa.float32()), pa.field("support", pa.float32())

LABELS = table(
    "labels",
    3,
    [
        required("subject", pa.string()),
        required("layer", pa.string()),
        required("unit", pa.int32()),
        pa.field("caption", pa.string()),
        pa.field("score", pa.float32()),
        pa.field("log_p_caption", pa.float32()),
        _LANGUAGE,
        _beams(_LANGUAGE, _SUPPORT),
        required("exemplar_images", pa.list_(required("item", pa.string()))),
        required("exemplar_activations", pa.list_(required("item", pa.float32()))),
        required("threshold", pa.float32()),
        required("active_fraction", pa.float64()),
        required("dead", pa.bool_()),
        required("captioner", pa.string()),
        required("run", pa.string()),
        _SUPPORT,
        pa.field("trust", pa.float64()),
        pa.field("trust_auprc", pa.float64()),
        pa.field("trust_shuffled", pa.float64()),
        pa.field("weights", pa.string()),
        pa.field("end", pa.string()),
        pa.field("scorer", pa.string()),
    ],
)

LOWEST = ":lowest"
"""Ends the name of a layer whose units are read with their sign turned: their other ends, as neurons of their own."""


def _former(version: int, beams: pa.Field, lacks: Sequence[str]) -> pa.Schema:
    fields = [beams if field.name == "beams" else field for field in LABELS if field.name not in lacks]
    return table("labels", version, fields)


_SINCE_2 = ("trust", "trust_auprc", "trust_shuffled", "weights", "end", "scorer")
LABELS_BEFORE = (
    _former(1, _beams(_LANGUAGE.with_nullable(nullable=False)), ("support", *_SINCE_2)),
    _former(2, _beams(_LANGUAGE), ("support",)),
)
"""The labels table's former versions: of their tables what they lack is read as null. The captioners of the first all
had a language model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DroppedRow:
    """Something that was asked for and is missing from the result, and why."""

    subject: str
    stage: str
    """Where it was dropped: "exemplars", "features", "captions", or "trust" for a held-out image."""
    kind: str
    """"image" or "neuron"."""
    name: str
    """The image's name, or the neuron as "layer/unit"."""
    image: int | None
    layer: str | None
    unit: int | None
    reason: str


DROPPED = table(
    "dropped",
    1,
    [
        required("subject", pa.string()),
        required("stage", pa.string()),
        required("kind", pa.string()),
        required("name", pa.string()),
        pa.field("image", pa.int64()),
        pa.field("layer", pa.string()),
        pa.field("unit", pa.int32()),
        required("reason", pa.string()),
    ],
)


def read_labels(source: bytes | IO[bytes], *, where: str, columns: Sequence[str] | None = None) -> pa.Table:
    """A file of a labels table of this version or one before, whose missing columns are null.

    Raises:
        ContractError: if it is no Parquet file, or another table.
    """
    file = parquet(source, where)
    schema = next((old for old in LABELS_BEFORE if identity(old) == identity(file.schema_arrow)), LABELS)
    check(file.schema_arrow, schema, where=where)
    names = LABELS.names if columns is None else list(columns)
    found = file.read(columns=[name for name in names if name in schema.names])
    parts = [
        found[field.name].cast(field.type) if field.name in schema.names else pa.nulls(found.num_rows, field.type)
        for field in map(LABELS.field, names)
    ]
    return pa.table(parts, schema=pa.schema(list(map(LABELS.field, names)), metadata=LABELS.metadata))
