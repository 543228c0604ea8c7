"""Captions → the labels table: one row a neuron, dead ones included; and reading it back."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Bool

from mami_core.contracts import LABELS, LOWEST, REGION_SIDE, Beam, read_labels
from mami_core.errors import ConfigError, ContractError, MissingObjectError

if TYPE_CHECKING:
    import fsspec
    import pandas as pd


def table(
    exemplars: pa.Table, beams: Sequence[Sequence[Beam]], *, captioner: str, run: str, weights: str | None = None
) -> pa.Table:
    """The labels of the neurons in `exemplars` (`contracts.EXEMPLARS`), in the same order.

    `beams` holds each neuron's proposals, best first, and nothing for a dead neuron. How far a label can be trusted is
    left open: see `pipeline.judge_labels`.
    """
    dead = [not proposals for proposals in beams]
    assert dead == pc.equal(pc.list_value_length(exemplars["images"]), 0).to_pylist(), "who has exemplars has captions"
    best = [proposals[0] if proposals else None for proposals in beams]
    columns = {
        **{name: exemplars[name] for name in ("subject", "layer", "unit", "threshold", "active_fraction")},
        **{name: [beam and getattr(beam, name) for beam in best] for name in Beam.__dataclass_fields__},
        "beams": [[asdict(beam) for beam in proposals] for proposals in beams],
        "exemplar_images": exemplars["keys"],
        "exemplar_activations": exemplars["activations"],
        "dead": dead,
        "captioner": pa.repeat(captioner, len(beams)),
        "run": pa.repeat(run, len(beams)),
        "weights": pa.nulls(len(beams), pa.string()) if weights is None else pa.repeat(weights, len(beams)),
        "end": ["lowest" if layer.endswith(LOWEST) else "highest" for layer in exemplars["layer"].to_pylist()],
        **{name: [None] * len(beams) for name in ("trust", "trust_auprc", "trust_shuffled", "scorer")},
    }
    return pa.table([_column(field, columns[field.name]) for field in LABELS], schema=LABELS)


def _column(field: pa.Field, values: Sequence | pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    return values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values, field.type)


def unpack_regions(packed: Sequence[bytes]) -> Bool[np.ndarray, "regions side side"]:
    """Stored regions (`contracts.RegionsRow.regions`) as grids: true where the neuron is active."""
    bits = np.unpackbits(np.frombuffer(b"".join(packed), np.uint8))
    return bits.reshape(len(packed), REGION_SIDE, REGION_SIDE).astype(bool)


def read(
    path: str,
    *,
    subject: str | None = None,
    layer: str | None = None,
    mentions: str | None = None,
    where: str | None = None,
    columns: Sequence[str] | None = None,
) -> "pd.DataFrame":
    """The labels of a run as pandas has them best: integers and floats that know nulls, text as text.

    Args:
        path: The run's folder, its `labels/` folder or a part of it; local, or `s3://` (credentials from the
            environment).
        subject: Only this network's neurons.
        layer: Only this layer's.
        mentions: Only neurons whose caption has all these words, as whole words: "dog" finds no "dogs".
        where: Only rows that this condition leaves, as `DataFrame.query` takes it: "score > -1 and not dead".
        columns: Which columns; by default all.

    Raises:
        MissingObjectError: there are no labels.
        ContractError: what stands there is another table, or of another version of this project.
        ConfigError: a condition that pandas does not understand; a subject, layer or column that is not there.
    """
    for name, value in {"subject": subject, "layer": layer, "mentions": mentions, "where": where}.items():
        if not isinstance(value, str | None):
            raise ConfigError(f"{name}: expected one text, got {value!r}. For several, read all and choose in pandas.")
    if isinstance(columns, str):
        raise ConfigError(f"columns: expected a list of names, got {columns!r}. Write [{columns!r}].")
    table = labels_at(path, subject=subject, layer=layer)
    if unknown := sorted(set(columns or ()) - set(table.column_names)):
        raise ConfigError(f"There are no columns {', '.join(unknown)}. There are {', '.join(table.column_names)}.")
    found = table.to_pandas(types_mapper=_nullable().get)
    if mentions is not None:
        words = [rf"(?=.*\b{re.escape(word)}\b)" for word in mentions.lower().split()]
        found = found[found["caption"].str.lower().str.match("".join(words), na=False)]
    if where is not None:
        found = found[_holds(found, where)]
    found = found if columns is None else found[list(columns)]
    return found.reset_index(drop=True)


def _holds(labels: "pd.DataFrame", where: str) -> "pd.Series":
    """Of which labels a condition holds; not of those of which nothing tells."""
    expected = f"where={where!r}: expected a condition, as DataFrame.query takes it"
    try:
        found: Any = labels.eval(where, engine="python")
    except Exception as error:  # whatever the text makes of it
        raise ConfigError(f"{expected}: {error}") from error
    if getattr(found, "dtype", None) not in ("bool", "boolean") or len(found) != len(labels):
        raise ConfigError(
            f"{expected}, such as 'support >= 0.7 and not dead' or 'support.isna()'; this is no yes or no."
        )
    return found.fillna(False)


def labels_at(path: str, *, subject: str | None = None, layer: str | None = None) -> pa.Table:
    """As `read`, as an Arrow table (`contracts.LABELS`): by subject, layer and unit."""
    import fsspec

    files, root = fsspec.core.url_to_fs(path)
    root = root.rstrip("/")
    found = sorted(files.find(f"{root}/labels" if files.isdir(f"{root}/labels") else root))
    parts = [part for part in found if part.endswith(".parquet")]
    if not parts:
        raise MissingObjectError(f"{path}: found no labels. Expected the folder of a labelling run, or its labels/.")
    _check_all_there(files, root, parts)
    wanted = {name: value for name, value in (("subject", subject), ("layer", layer)) if value is not None}
    tables = [LABELS.empty_table()]
    for part in parts:
        if wanted:
            with files.open(part) as file:
                about = _opened(file, part)
                if not all(_may_hold(about, name, value) for name, value in wanted.items()):
                    continue
        tables.append(read_labels(files.cat_file(part), where=part))
    table = pa.concat_tables(tables)
    for name, value in wanted.items():
        table = table.filter(pc.equal(table[name], value))
    if wanted and not table.num_rows:
        _check_known(files, parts, wanted)
    return table.sort_by([("subject", "ascending"), ("layer", "ascending"), ("unit", "ascending")])


def _check_all_there(files: "fsspec.AbstractFileSystem", root: str, parts: Sequence[str]) -> None:
    """A finished run lists its files: a part that is lost must not look like neurons that never were.

    Raises:
        MissingObjectError: naming what is missing.
    """
    manifest = f"{root}/_MANIFEST.json"
    if not files.exists(manifest):
        return
    listed = {file["path"] for file in json.loads(files.cat_file(manifest))["files"]}
    wanted = {f"{root}/{path}" for path in listed if path.startswith("labels/")}
    if missing := sorted(wanted - set(parts)):
        raise MissingObjectError(
            f"{root}: {len(missing)} of {len(wanted)} files of labels are gone, the first is {missing[0]}. Delete "
            "_MANIFEST.json and run the labelling command again to make them anew."
        )


def _opened(file: Any, where: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file)
    except pa.ArrowInvalid as error:
        raise ContractError(f"{where} is damaged: {error}") from error


def _check_known(files: "fsspec.AbstractFileSystem", parts: Sequence[str], wanted: Mapping[str, str]) -> None:
    """Finds which of the wanted values is not there, beside those before it.

    Raises:
        ConfigError: one is not; says what there is.
    """
    rows = pa.concat_tables(_columns(files, part, list(wanted)) for part in parts)
    for name, value in wanted.items():
        there = sorted(rows[name].unique().to_pylist())
        if value not in there:
            raise ConfigError(f"There is no {name} {value!r}. There are {', '.join(there)}.")
        rows = rows.filter(pc.equal(rows[name], value))


def _columns(files: "fsspec.AbstractFileSystem", part: str, names: list[str]) -> pa.Table:
    with files.open(part) as file:
        return _opened(file, part).read(columns=names)


def _may_hold(file: pq.ParquetFile, column: str, value: str) -> bool:
    """Whether the file's own statistics leave it possible: a part holds one layer, and most need not be read."""
    place = file.schema_arrow.get_field_index(column)
    if place < 0:
        return True  # no labels: reading it says so
    groups = [file.metadata.row_group(group).column(place).statistics for group in range(file.num_row_groups)]
    return any(each is None or not each.has_min_max or each.min <= value <= each.max for each in groups)


def _nullable() -> dict[pa.DataType, object]:
    import pandas as pd

    return {
        pa.int32(): pd.Int32Dtype(),
        pa.float32(): pd.Float32Dtype(),
        pa.float64(): pd.Float64Dtype(),
        pa.bool_(): pd.BooleanDtype(),
        pa.string(): pd.StringDtype(),
    }
