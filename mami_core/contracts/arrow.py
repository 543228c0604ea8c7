"""What every table is: an Arrow schema with a name and a version, checked by whoever reads it."""

import io
from collections.abc import Sequence
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from mami_core.errors import ContractError


def table(name: str, version: int, fields: list[pa.Field]) -> pa.Schema:
    """A table's schema, which says its name and version."""
    return pa.schema(fields, metadata={b"table": name.encode(), b"version": str(version).encode()})


def required(name: str, kind: pa.DataType) -> pa.Field:
    """A column that is never null."""
    return pa.field(name, kind, nullable=False)


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
        same = identity(found)[0] == identity(expected)[0]
        advice = "Another version of this project wrote it; start a new output folder." if same else "Give that table."
        raise ContractError(f"{where}: expected table {_named(expected)}, found {_named(found)}. {advice}")
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
    file = parquet(source, where)
    check(file.schema_arrow, schema, where=where)
    return file


def parquet(source: bytes | IO[bytes], where: str) -> pq.ParquetFile:
    """Open a Parquet file of whatever table.

    Raises:
        ContractError: if it is none.
    """
    try:
        return pq.ParquetFile(io.BytesIO(source) if isinstance(source, bytes) else source)
    except pa.ArrowInvalid as error:
        raise ContractError(f"{where}: expected a Parquet file: {error}") from error


def from_parquet(source: bytes | IO[bytes], schema: pa.Schema, *, where: str) -> pa.Table:
    """Read a whole Parquet file that must be a table of `schema` (see `open_parquet`)."""
    return open_parquet(source, schema, where=where).read()
