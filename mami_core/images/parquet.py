"""Images as rows of Parquet files: listing them, and reading them row group by row group."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mami_core.errors import ImageError, ImageSourceError, StorageError
from mami_core.images.files import FileInfo, Files

_ROWS_AT_ONCE = 64
_BUFFER_BYTES = 8 << 20
_KEY_COLUMNS = ("key", "image.path", "path")
_DAMAGED = (pa.ArrowException, OSError, ValueError)  # What Arrow raises for bytes that are no Parquet.


@dataclass(frozen=True, slots=True)
class Footer:
    """What must be known of a Parquet file to read some of its rows."""

    metadata: pq.FileMetaData
    column: str
    """Where the bytes are: "image.bytes", "image" or "bytes"."""
    first_rows: np.ndarray
    """The number of every row group's first row, and at the end the number of rows."""

    def group_of(self, row: int) -> int:
        """The row group that holds a row; -1 where the file has no such row."""
        group = int(np.searchsorted(self.first_rows, row, side="right")) - 1
        return group if group < self.metadata.num_row_groups else -1

    def num_bytes(self, group: int) -> int:
        """A row group's size in memory."""
        return self.metadata.row_group(group).total_byte_size


def list_rows(info: FileInfo, files: Files, *, name: str) -> pa.StringArray:
    """The key of every row.

    Raises:
        ImageSourceError: it is no Parquet file, or none of its columns holds images.
    """
    with _damage_named(info.path), files.open(info.path) as stream:
        file = pq.ParquetFile(stream)
        _image_column(file.schema_arrow, info.path)
        numbered = pa.array([f"{name}#{row}" for row in range(file.metadata.num_rows)], pa.string())
        column = next((column for column in _KEY_COLUMNS if _is_text(_type_of(file.schema_arrow, column))), None)
        if column is None:
            return numbered
        chunks = _leaf(file.read(columns=[column]), column)
        keys = pa.chunked_array(chunks, _type_of(file.schema_arrow, column)).cast(pa.string())
        return pc.call_function("coalesce", [keys.combine_chunks(), numbered])


def read_footer(path: str, files: Files) -> Footer:
    """Read where a file's rows are.

    Raises:
        ImageSourceError: as `list_rows`.
    """
    with _damage_named(path), files.open(path) as stream:
        file = pq.ParquetFile(stream)
        counts = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
        return Footer(file.metadata, _image_column(file.schema_arrow, path), np.cumsum([0, *counts]))


def read_rows(path: str, files: Files, footer: Footer, group: int, rows: Sequence[int]) -> list[bytes | ImageError]:
    """The bytes of some rows of one row group, in ascending order; an `ImageError` for each that cannot be had.

    The file is read in steps of the same rows whichever of them are wanted, so that damage costs the same images
    however the work is split.
    """
    found: list[bytes | ImageError] = []
    try:
        with files.open(path) as stream:
            for first, values in _steps(stream, footer, group):
                while len(found) < len(rows) and rows[len(found)] < first + len(values):
                    found.append(_bytes(values[rows[len(found)] - first]))
                if len(found) == len(rows):
                    break
    except StorageError:
        raise
    except _DAMAGED as problem:
        found += [ImageError(f"{path} is damaged: {problem}")] * (len(rows) - len(found))
    return found


def _steps(stream: object, footer: Footer, group: int) -> Iterator[tuple[int, pa.Array]]:
    """The image column of a row group, a few rows at a time: the number of the first, and the values."""
    file = pq.ParquetFile(stream, metadata=footer.metadata, buffer_size=_BUFFER_BYTES, pre_buffer=False)
    steps = file.iter_batches(_ROWS_AT_ONCE, row_groups=[group], columns=[footer.column], use_threads=False)
    first = int(footer.first_rows[group])
    for step in steps:
        yield first, _leaf(pa.Table.from_batches([step]), footer.column)[0]
        first += step.num_rows


def _bytes(value: pa.Scalar) -> bytes | ImageError:
    return value.as_py() if value.is_valid else ImageError("the row holds no bytes")


def _image_column(schema: pa.Schema, path: str) -> str:
    for column in ("image.bytes", "image", "bytes"):
        kind = _type_of(schema, column)
        if kind is not None and (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
            return column
    raise ImageSourceError(
        f"{path}: expected encoded images in a column 'image' (binary, or a struct with 'bytes') or 'bytes'; "
        f"its columns are {schema.names}"
    )


def _type_of(schema: pa.Schema, column: str) -> pa.DataType | None:
    """The type of a column, or of the field of a struct: "image.path"."""
    name, _, field = column.partition(".")
    index = schema.get_field_index(name)
    kind = schema.field(index).type if index >= 0 else None
    if not field or kind is None:
        return kind
    index = kind.get_field_index(field) if pa.types.is_struct(kind) else -1
    return kind.field(index).type if index >= 0 else None


def _is_text(kind: pa.DataType | None) -> bool:
    return kind is not None and (pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _leaf(table: pa.Table, column: str) -> list[pa.Array]:
    """A column's chunks, or those of the field of a struct."""
    name, _, field = column.partition(".")
    chunks = table[name].chunks
    return (
        [pc.call_function("struct_field", [chunk], pc.StructFieldOptions([field])) for chunk in chunks]
        if field
        else chunks
    )


@contextmanager
def _damage_named(path: str) -> Iterator[None]:
    try:
        yield
    except (StorageError, ImageSourceError):
        raise
    except _DAMAGED as problem:
        raise ImageSourceError(f"{path}: expected a Parquet file: {problem}") from problem
