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
_USUAL_COLUMNS = ("image", "bytes")
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


@dataclass(frozen=True, slots=True)
class Rows:
    """The images in a Parquet file."""

    keys: pa.StringArray
    other_columns: tuple[str, ...]
    """Columns that hold images too and were not asked for."""


def list_rows(info: FileInfo, files: Files, *, name: str, column: str | None = None) -> Rows:
    """The key of every row.

    Raises:
        ImageSourceError: it is no Parquet file, or the column holds no images (without one: none of the usual does).
    """
    with _damage_named(info.path), files.open(info.path) as stream:
        file = pq.ParquetFile(stream)
        schema = file.schema_arrow
        chosen = _image_column(schema, info.path, column)
        others = tuple(other for other in schema.names if _bytes_of(schema, other) not in (None, chosen))
        numbered = pa.array([f"{name}#{row}" for row in range(file.metadata.num_rows)], pa.string())
        places = ("key", f"{chosen.partition('.')[0]}.path", "path")
        named = next((place for place in places if _is_text(_type_of(schema, place))), None)
        if named is None:
            return Rows(numbered, others)
        chunks = [chunk.cast(pa.string()) for chunk in _leaf(file.read(columns=[named]), named)]
        keys = pa.chunked_array(chunks, pa.string())
        return Rows(pc.call_function("coalesce", [keys.combine_chunks(), numbered]), others)


def read_footer(path: str, files: Files, column: str | None = None) -> Footer:
    """Read where a file's rows are, and the images in them.

    Raises:
        ImageSourceError: as `list_rows`.
    """
    with _damage_named(path), files.open(path) as stream:
        file = pq.ParquetFile(stream)
        counts = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
        return Footer(file.metadata, _image_column(file.schema_arrow, path, column), np.cumsum([0, *counts]))


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


def _image_column(schema: pa.Schema, path: str, asked: str | None) -> str:
    """The column asked for, or else the first of the usual ones that holds bytes: "image.bytes", "image" or "bytes"."""
    found = [_bytes_of(schema, column) for column in ([asked] if asked else _USUAL_COLUMNS)]
    if chosen := next(filter(None, found), None):
        return chosen
    where = f"column {asked!r}" if asked else "a column 'image' (binary, or a struct with 'bytes') or 'bytes'"
    others = [name for name in schema.names if _bytes_of(schema, name)]
    raise ImageSourceError(
        f"{path}: expected encoded images in {where}; its columns are {schema.names}"
        + (f", and {', '.join(others)} could hold images: name one of them as the image column." if others else ".")
    )


def _bytes_of(schema: pa.Schema, column: str) -> str | None:
    """The column, or the field `bytes` of its struct, if it holds bytes."""
    return next((place for place in (f"{column}.bytes", column) if _is_bytes(_type_of(schema, place))), None)


def _type_of(schema: pa.Schema, column: str) -> pa.DataType | None:
    """The type of a column, or of the field of a struct: "image.path"."""
    name, _, field = column.partition(".")
    index = schema.get_field_index(name)
    kind = schema.field(index).type if index >= 0 else None
    if not field or kind is None:
        return kind
    index = kind.get_field_index(field) if pa.types.is_struct(kind) else -1
    return kind.field(index).type if index >= 0 else None


def _is_bytes(kind: pa.DataType | None) -> bool:
    kinds = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    return kind is not None and any(fits(_decoded(kind)) for fits in kinds)


def _is_text(kind: pa.DataType | None) -> bool:
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return kind is not None and any(fits(_decoded(kind)) for fits in kinds)


def _decoded(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


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
