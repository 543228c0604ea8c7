"""The tables that pass between stages, and the only place where their columns are named.

A table is an Arrow schema whose metadata carries its name and version, beside a frozen dataclass that is one row of
it. Writers cast to the schema, readers refuse another version: a half-finished run of an older version is never mixed
with a newer one.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from mami_core.errors import ContractError


def _table(name: str, version: int, fields: list[pa.Field]) -> pa.Schema:
    return pa.schema(fields, metadata={b"table": name.encode(), b"version": str(version).encode()})


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRow:
    """Where the bytes of one image are."""

    image: int
    """Its number in the run, from 0 and without gaps: the order of the images, and what breaks ties."""
    key: str
    """Its name as people see it: a path below the source, or the member's name inside an archive."""
    path: str
    """The object that holds its bytes."""
    offset: int | None
    """First byte inside the object (archives only)."""
    size: int | None
    """Number of bytes (absent in Parquet, whose rows are compressed)."""
    row: int | None
    """Row number inside the object (Parquet only)."""
    column: str | None
    """The column that holds the bytes, where it is not the usual one (Parquet only)."""


IMAGES = _table(
    "images",
    2,
    [
        _required("image", pa.int64()),
        _required("key", pa.string()),
        _required("path", pa.string()),
        pa.field("offset", pa.int64()),
        pa.field("size", pa.int64()),
        pa.field("row", pa.int64()),
        pa.field("column", pa.string()),
    ],
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExemplarsRow:
    """One neuron with the images that drive it highest. A neuron that never fires has no exemplars."""

    subject: str
    layer: str
    unit: int
    images: list[int]
    """Image numbers, strongest first; at most k, only images on which the neuron is active."""
    keys: list[str]
    """The same images' names."""
    activations: list[float]
    """The neuron's highest activation on each."""
    threshold: float
    """What a position must exceed to belong to the region: the quantile over all positions of all images."""
    active_fraction: float
    """Share of all positions of all images with an activation above zero."""


EXEMPLARS = _table(
    "exemplars",
    1,
    [
        _required("subject", pa.string()),
        _required("layer", pa.string()),
        _required("unit", pa.int32()),
        _required("images", pa.list_(_required("item", pa.int64()))),
        _required("keys", pa.list_(_required("item", pa.string()))),
        _required("activations", pa.list_(_required("item", pa.float32()))),
        _required("threshold", pa.float32()),
        _required("active_fraction", pa.float64()),
    ],
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FeaturesRow:
    """What the encoder gives for one exemplar of one neuron."""

    layer: str
    unit: int
    rank: int
    """Which exemplar of the neuron, 0 being the strongest."""
    image: int
    vector: bytes
    """The feature vector: float16, little-endian, one after the other."""
    exponent: int
    """The vector's numbers are to be multiplied by 2^exponent: 0 unless one of them is beyond float16's 65,504."""
    region: bytes | None
    """Where in the image the neuron is active, as in `RegionsRow`; null where people drew it."""


REGION_SIDE = 56
"""Cells along each side of a stored region."""
_REGION = pa.binary(REGION_SIDE**2 // 8)


def features_schema(num_features: int) -> pa.Schema:
    """The features table's schema for vectors of `num_features` numbers.

    Fixed-size binary, because Arrow reads it eight times faster than lists of half-precision floats.
    """
    return _table(
        "features",
        2,
        [
            _required("layer", pa.string()),
            _required("unit", pa.int32()),
            _required("rank", pa.int16()),
            _required("image", pa.int64()),
            _required("vector", pa.binary(2 * num_features)),
            _required("exponent", pa.int8()),
            pa.field("region", _REGION),
        ],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionsRow:
    """Where in each of its exemplars a neuron is active. `mami_core.labels.unpack_regions` makes grids of it."""

    subject: str
    layer: str
    unit: int
    regions: list[bytes]
    """One an exemplar, strongest first: `REGION_SIDE` × `REGION_SIDE` cells over the square that the subject sees, one
    bit a cell, rows from the top, the first cell of eight being a byte's highest bit."""


REGIONS = _table(
    "regions",
    1,
    [
        _required("subject", pa.string()),
        _required("layer", pa.string()),
        _required("unit", pa.int32()),
        _required("regions", pa.list_(_required("item", _REGION))),
    ],
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Beam:
    """One caption that the search proposed, with its scores (natural logarithms)."""

    caption: str
    score: float
    log_p_caption: float
    log_p_language: float | None
    """None where the captioner has no language model."""


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
    trust: float | None = None
    """How well the neuron's activations on held-out images, which chose no exemplar, go with what a scorer expects of
    the caption alone: Pearson's correlation. Null where nobody judged, or where nothing varies."""
    trust_auprc: float | None = None
    """The average precision with which the scorer finds the held-out images that drive the neuron highest (one in
    twenty): chance is about .05."""
    trust_shuffled: float | None = None
    """`trust` of the caption of another neuron of the same layer: what this neuron's own has to beat."""
    weights: str | None = None
    """Identifies the subject's weights: two subjects of the same are the same network. Null in tables of version 1."""
    end: str | None = None
    """Which end of the unit's values the exemplars are from: "highest", or "lowest". Null in tables of version 1."""
    scorer: str | None = None
    """Who judged: the image–text scorer and what identifies it; trust of different scorers does not compare."""


def _beams(log_p_language: pa.Field) -> pa.Field:
    numbers = [_required("score", pa.float32()), _required("log_p_caption", pa.float32()), log_p_language]
    one = pa.struct([_required("caption", pa.string()), *numbers])
    return _required("beams", pa.list_(_required("item", one)))


LABELS = _table(
    "labels",
    2,
    [
        _required("subject", pa.string()),
        _required("layer", pa.string()),
        _required("unit", pa.int32()),
        pa.field("caption", pa.string()),
        pa.field("score", pa.float32()),
        pa.field("log_p_caption", pa.float32()),
        pa.field("log_p_language", pa.float32()),
        _beams(pa.field("log_p_language", pa.float32())),
        _required("exemplar_images", pa.list_(_required("item", pa.string()))),
        _required("exemplar_activations", pa.list_(_required("item", pa.float32()))),
        _required("threshold", pa.float32()),
        _required("active_fraction", pa.float64()),
        _required("dead", pa.bool_()),
        _required("captioner", pa.string()),
        _required("run", pa.string()),
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

LABELS_1_LACKS = ("trust", "trust_auprc", "trust_shuffled", "weights", "end", "scorer")
"""Columns that the labels table has since its version 2; of a table of version 1 they are read as null."""

LABELS_1 = _table(
    "labels",
    1,
    [
        _beams(_required("log_p_language", pa.float32())) if field.name == "beams" else field
        for field in LABELS
        if field.name not in LABELS_1_LACKS
    ],
)
"""The labels table's version 1, whose captioners all had a language model."""


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


DROPPED = _table(
    "dropped",
    1,
    [
        _required("subject", pa.string()),
        _required("stage", pa.string()),
        _required("kind", pa.string()),
        _required("name", pa.string()),
        pa.field("image", pa.int64()),
        pa.field("layer", pa.string()),
        pa.field("unit", pa.int32()),
        _required("reason", pa.string()),
    ],
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DescriptionsRow:
    """What one person said of one neuron."""

    layer: str
    unit: int
    description: str


DESCRIPTIONS = _table(
    "descriptions",
    1,
    [
        _required("layer", pa.string()),
        _required("unit", pa.int32()),
        _required("description", pa.string()),
    ],
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoresRow:
    """How well one source of texts agrees with people's descriptions, over one group of neurons."""

    subject: str
    captioner: str
    """Identifies the captioner's weights."""
    grouping: str
    """What the group is made by: "all", "length" (words a description) or "layer"."""
    group: str
    """The group's name, such as "5 to 8 words" or "layer3"."""
    source: str
    """Who says the texts: "captions", or a baseline: "constant" (the same text for every neuron), "shuffled" (another
    neuron's caption), "people" (each person against the others of the same neuron); "captions like people" are the
    captions against as many descriptions as each person meets."""
    text: str | None
    """The constant; null for every other source."""
    num_neurons: int
    num_texts: int
    """How many texts were compared; the people of one neuron are several."""
    num_distinct: int
    """How many different texts there are among them."""
    bleu: float
    """Corpus BLEU, 0 to 100, with all descriptions of every neuron."""
    rouge_l: float
    """ROUGE-L F1, 0 to 1: of each text against its best description, averaged."""
    bleu_nltk: float | None
    """As MAMI's paper prints it: nltk's over MILAN's words, with all descriptions and without smoothing. Null where
    spaCy is not installed, which cuts these words."""
    sacrebleu: float
    """sacreBLEU's, as MILAN's paper prints it but with all descriptions."""
    sacrebleu_signature: str
    """sacreBLEU's version and settings."""
    bertscore_precision: float | None
    """BERTScore, at most 1: of each text against its best description, averaged. Null where it was left out."""
    bertscore_recall: float | None
    bertscore_f1: float | None
    bertscore_model: str | None
    """The network and layer that BERTScore was computed with; scores of different ones do not compare."""


SCORES = _table(
    "scores",
    2,
    [
        _required("subject", pa.string()),
        _required("captioner", pa.string()),
        _required("grouping", pa.string()),
        _required("group", pa.string()),
        _required("source", pa.string()),
        pa.field("text", pa.string()),
        _required("num_neurons", pa.int64()),
        _required("num_texts", pa.int64()),
        _required("num_distinct", pa.int64()),
        _required("bleu", pa.float64()),
        _required("rouge_l", pa.float64()),
        pa.field("bleu_nltk", pa.float64()),
        _required("sacrebleu", pa.float64()),
        _required("sacrebleu_signature", pa.string()),
        pa.field("bertscore_precision", pa.float64()),
        pa.field("bertscore_recall", pa.float64()),
        pa.field("bertscore_f1", pa.float64()),
        pa.field("bertscore_model", pa.string()),
    ],
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuresRow:
    """One number that says how good captions are without comparing their words with a person's, with its interval."""

    subject: str
    captioner: str
    """Identifies the captioner's weights."""
    grouping: str
    """What the group is made by: "all" or "layer"."""
    group: str
    measure: str
    """Such as "trust" or "named"; what each means is said in docs/trust.md."""
    source: str
    """Who says the texts: "captions", "shuffled" (another neuron's caption) or "constant" (the commonest caption)."""
    text: str | None
    """The constant; null for every other source."""
    num_neurons: int
    """The neurons of which the measure says something."""
    value: float
    low: float | None
    """The 95 % interval of the value, by bootstrap over neurons. Null for what resampling would distort."""
    high: float | None
    judge: str | None
    """The scorer, sentence encoder or language model that it was measured with; others' do not compare."""


MEASURES = _table(
    "measures",
    1,
    [
        _required("subject", pa.string()),
        _required("captioner", pa.string()),
        _required("grouping", pa.string()),
        _required("group", pa.string()),
        _required("measure", pa.string()),
        _required("source", pa.string()),
        pa.field("text", pa.string()),
        _required("num_neurons", pa.int64()),
        _required("value", pa.float64()),
        pa.field("low", pa.float64()),
        pa.field("high", pa.float64()),
        pa.field("judge", pa.string()),
    ],
)


def identity(schema: pa.Schema) -> tuple[str, int]:
    """The table's name and version as the schema's metadata states them; ("", 0) where it states none."""
    metadata = schema.metadata or {}
    try:
        return metadata.get(b"table", b"").decode(), int(metadata.get(b"version", b"0"))
    except ValueError:
        return "", 0


def check(found: pa.Schema, expected: pa.Schema, *, where: str) -> None:
    """Refuse a table of another name, version or set of columns.

    Raises:
        ContractError: saying what stands at `where`, and what was expected there.
    """
    if identity(found) != identity(expected):
        raise ContractError(
            f"{where}: expected table {_named(expected)}, found {_named(found)}. "
            "It was written by another version of this project; start a new output folder."
        )
    if not found.equals(expected, check_metadata=False):
        differing = sorted(set(_columns(found)) ^ set(_columns(expected)))
        raise ContractError(f"{where}: table {_named(expected)} has other columns than expected: {differing}.")


def _columns(schema: pa.Schema) -> list[str]:
    return [f"{field.name}: {field.type}{'' if field.nullable else ' not null'}" for field in schema]


def _named(schema: pa.Schema) -> str:
    name, version = identity(schema)
    return f"'{name}' version {version}" if name else "of no known kind"


def from_rows(rows: list[dict], schema: pa.Schema) -> pa.Table:
    """A table of `schema` from a list of rows, each a dictionary with every column."""
    return pa.Table.from_pylist(rows, schema=schema)


def to_parquet(tables: pa.Table | Sequence[pa.Table], schema: pa.Schema, *, compression: str = "zstd") -> bytes:
    """One Parquet file of `schema`, one row group a table: the same rows always give the same bytes."""
    groups = [tables] if isinstance(tables, pa.Table) else tables
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, schema, compression=compression, use_dictionary=compression != "none") as writer:
        for group in groups:
            writer.write_table(group.cast(schema), row_group_size=max(group.num_rows, 1))
    return sink.getvalue()


def open_parquet(source: bytes | IO[bytes], schema: pa.Schema, *, where: str) -> pq.ParquetFile:
    """Open a Parquet file and check that it is a table of `schema`.

    Raises:
        ContractError: if it is no Parquet file, or a table of another kind or version.
    """
    file = _parquet(source, where)
    check(file.schema_arrow, schema, where=where)
    return file


def _parquet(source: bytes | IO[bytes], where: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(io.BytesIO(source) if isinstance(source, bytes) else source)
    except pa.ArrowInvalid as error:
        raise ContractError(f"{where}: expected a Parquet file: {error}") from error


def from_parquet(source: bytes | IO[bytes], schema: pa.Schema, *, where: str) -> pa.Table:
    """Read a whole Parquet file that must be a table of `schema` (see `open_parquet`)."""
    return open_parquet(source, schema, where=where).read()


def read_labels(source: bytes | IO[bytes], *, where: str, columns: Sequence[str] | None = None) -> pa.Table:
    """A file of a labels table of this version or the one before, whose missing columns are null.

    Raises:
        ContractError: if it is no Parquet file, or another table.
    """
    file = _parquet(source, where)
    names = LABELS.names if columns is None else list(columns)
    if identity(file.schema_arrow) != ("labels", 1):
        check(file.schema_arrow, LABELS, where=where)
        return file.read(columns=names)
    check(file.schema_arrow, LABELS_1, where=where)
    found = file.read(columns=[name for name in names if name not in LABELS_1_LACKS])
    added = {name: pa.nulls(found.num_rows, LABELS.field(name).type) for name in names if name in LABELS_1_LACKS}
    parts = [added[name] if name in added else found[name].cast(LABELS.field(name).type) for name in names]
    return pa.table(parts, schema=pa.schema([LABELS.field(name) for name in names], metadata=LABELS.metadata))
