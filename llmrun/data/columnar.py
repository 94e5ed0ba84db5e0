"""Reads the rows of Parquet and Arrow files (IPC file and stream) with pyarrow, some rows at a time."""

from collections.abc import Iterator
from typing import Any, BinaryIO, Literal

from llmrun.data.optional_packages import optional_package
from llmrun.data.rows import BadRow, MissingFieldError, ReadOptions, Row, UnusableFileError

BATCH_ROWS = 256
"""Rows that are decoded at a time."""

ARROW_FILE = b"ARROW1"
STREAM_END = b"\xff\xff\xff\xff\0\0\0\0"
"""The last bytes of an Arrow stream; without them it may end between any two batches."""


def column_rows(
    file: BinaryIO, kind: Literal["Parquet", "Arrow"], options: ReadOptions
) -> Iterator[Row | BadRow]:
    """Yield the rows of a Parquet or Arrow file.

    Raises UnusableFileError if pyarrow cannot read it, or if it has no column of the name; RefusedError without pyarrow.
    """
    arrow = optional_package("pyarrow", "llmrun[parquet]", f"{kind} files")
    number = 0
    try:
        for batch in _parquet_batches(file, options) if kind == "Parquet" else _arrow_batches(file):
            for start in range(0, batch.num_rows, BATCH_ROWS):
                yield from _rows_of(batch.slice(start, BATCH_ROWS), number, options)
                number += min(BATCH_ROWS, batch.num_rows - start)
    except (arrow.ArrowException, OSError, MemoryError, OverflowError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnusableFileError(f"cannot be read as {kind} after row {number:,}: {reason}") from error


def _parquet_batches(file: BinaryIO, options: ReadOptions) -> Iterator[Any]:
    """Yield record batches of the needed columns, row group by row group."""
    parquet = optional_package("pyarrow.parquet", "llmrun[parquet]", "Parquet files")
    content = parquet.ParquetFile(file, pre_buffer=False, page_checksum_verification=True)
    wanted = [name for name in (options.text_field, options.id_field) if name is not None]
    heads = {_path_in(content.schema_arrow, name)[0] for name in wanted}
    for group in range(content.num_row_groups):
        yield from content.iter_batches(BATCH_ROWS, row_groups=[group], columns=sorted(heads))


def _arrow_batches(file: BinaryIO) -> Iterator[Any]:
    """Yield the record batches of an Arrow file or stream."""
    ipc = optional_package("pyarrow.ipc", "llmrun[parquet]", "Arrow files")
    is_file = file.read(len(ARROW_FILE)) == ARROW_FILE
    if is_file:
        file.seek(0)
        content = ipc.open_file(file)
        yield from (content.get_batch(number) for number in range(content.num_record_batches))
        return
    size = file.seek(0, 2)
    file.seek(max(0, size - len(STREAM_END)))
    if file.read() != STREAM_END:
        raise UnusableFileError("is no Arrow file, or is truncated: it does not end as an Arrow stream does")
    file.seek(0)
    yield from ipc.open_stream(file)
    if file.tell() != size:
        raise UnusableFileError(
            f"is damaged: the Arrow stream ends {size - file.tell():,} bytes before the file"
        )


def _rows_of(batch: Any, before: int, options: ReadOptions) -> Iterator[Row | BadRow]:
    """The rows of a small batch; `before` rows of the file come before it."""
    texts, wrong = _texts(_column(batch, options.text_field))
    ids = [None] * len(texts)
    if options.id_field is not None:
        ids = _column(batch, options.id_field).to_pylist()
    for number, (text, own_id) in enumerate(zip(texts, ids, strict=True), start=before + 1):
        if wrong is not None and text is not None:
            yield BadRow(
                number, "wrong_type", f"must have text in the field {options.text_field!r}, got {wrong}"
            )
        elif options.id_field is not None and (isinstance(own_id, bool) or not isinstance(own_id, str | int)):
            message = f"must have text or a whole number as {options.id_field!r}, got {own_id!r}"
            yield BadRow(number, "no_id", message)
        else:
            fields = tuple(batch.schema.names) if text is None else ()
            yield Row(number, text, None if own_id is None else str(own_id), fields)


def _texts(column: Any) -> tuple[list[bytes | None], str | None]:
    """The texts of a column as bytes, which nothing has checked; and its type, if it is not one of text.

    A column of bytes is taken for text: many writers leave the annotation out.
    """
    arrow = optional_package("pyarrow", "llmrun[parquet]", "Parquet files")
    types = arrow.types
    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if types.is_null(column.type):
        return [None] * len(column), None
    for is_text, as_bytes in (
        (types.is_string, arrow.binary),
        (types.is_large_string, arrow.large_binary),
        (types.is_string_view, arrow.binary_view),
    ):
        if is_text(column.type):
            column = column.cast(as_bytes())
    if (
        types.is_binary(column.type)
        or types.is_large_binary(column.type)
        or types.is_binary_view(column.type)
    ):
        column.validate(full=True)
        return column.to_pylist(), None
    return [None if is_null else b"" for is_null in column.is_null().to_pylist()], str(column.type)


def _path_in(schema: Any, name: str) -> list[str]:
    """The column of a field and the names of the fields within it.  Raises UnusableFileError if there is none."""
    if name in schema.names:
        return [name]
    arrow = optional_package("pyarrow", "llmrun[parquet]", "Parquet files")
    parts = name.split(".")
    fields, path = schema, []
    for part in parts:
        names = [field.name for field in fields]
        if part not in names:
            break
        path.append(part)
        inner = fields.field(names.index(part)).type
        fields = list(inner) if arrow.types.is_struct(inner) else []
        fields = arrow.schema(fields)
    if path == parts:
        return path
    raise MissingFieldError(f"has no column {name!r}; it has {', '.join(map(repr, schema.names[:20]))}")


def _column(batch: Any, name: str) -> Any:
    """The array of a field, null where a field that holds it is null."""
    path = _path_in(batch.schema, name)
    column = batch.column(batch.schema.names.index(path[0]))
    for part in path[1:]:
        compute = optional_package("pyarrow.compute", "llmrun[parquet]", "Parquet files")
        column = compute.struct_field(column, [part])
    return column
