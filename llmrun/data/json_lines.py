"""Reads JSON lines: one object a line, plain or compressed with gzip or zstandard, in bounded memory."""

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from llmrun.data.formats import Compression
from llmrun.data.optional_packages import optional_package
from llmrun.data.rows import BadRow, ReadOptions, Row, UnusableFileError
from llmrun.data.text_rules import BYTE_ORDER_MARK

BLOCK_BYTES = 2**20
COMPRESSED_BYTES = 4096
"""Read at a time from zstandard data: a block of 4 bytes can stand for 128 KiB."""

LARGEST_WINDOW = 2**31
"""The largest window of zstandard, as of `zstd --long=31`."""

LINE_FACTOR = 4
"""A line may have this many times the bytes of the longest document: six for a character as \\u0041, and other fields."""


def json_rows(
    file: BinaryIO, compression: Compression | None, options: ReadOptions
) -> Iterator[Row | BadRow]:
    """Yield the rows of a file of JSON lines; lines of white space are no rows.

    Raises UnusableFileError if the compressed data is truncated or damaged; RefusedError without zstandard.
    """
    lines = _lines(decompressed(file, compression), options.max_document * LINE_FACTOR)
    for number, line in enumerate(lines, start=1):
        if line is None:
            limit = options.max_document * LINE_FACTOR
            yield BadRow(number, "too_long", f"must have at most {limit:,} bytes")
            continue
        content = line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line
        if not content.isspace() and content:
            yield row_of_line(number, content, options)


def row_of_line(number: int, line: bytes, options: ReadOptions) -> Row | BadRow:
    """The row of one line."""
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        byte = f"byte 0x{line[error.start]:02x} at offset {error.start:,} of the line"
        return BadRow(number, "not_text", f"is not UTF-8: {byte}")
    try:
        value = json.loads(text)
    except RecursionError:
        return BadRow(number, "not_json", "is not JSON that can be read: it is nested too deeply")
    except json.JSONDecodeError as error:
        return BadRow(number, "not_json", f"is not JSON: {error.msg} at character {error.pos:,} of the line")
    except ValueError as error:  # a number of thousands of digits
        return BadRow(number, "not_json", f"is not JSON that can be read: {error}")
    if not isinstance(value, dict):
        return BadRow(number, "not_object", f"must be a JSON object, got {_type_of(value)}")
    return _row_of_object(number, value, options)


def _row_of_object(number: int, value: Mapping[str, Any], options: ReadOptions) -> Row | BadRow:
    """The row of one object."""
    text = field_of(value, options.text_field)
    if text is not None and not isinstance(text, str):
        return BadRow(
            number, "wrong_type", f"must have text in the field {options.text_field!r}, got {_type_of(text)}"
        )
    own_id = None
    if options.id_field is not None:
        found = field_of(value, options.id_field)
        if isinstance(found, bool) or not isinstance(found, str | int):
            return BadRow(
                number,
                "no_id",
                f"must have text or a whole number as {options.id_field!r}, got {_type_of(found)}",
            )
        own_id = str(found)
    if text is None:
        return Row(number, None, own_id, tuple(value))
    try:
        return Row(number, text.encode(), own_id)
    except UnicodeEncodeError as error:
        return BadRow(number, "not_text", f"is not text: half a surrogate pair at character {error.start:,}")


def field_of(value: Mapping[str, Any], name: str) -> Any:
    """A field of an object by its name, or by the names of nested fields with dots; None if it is missing."""
    if name in value:
        return value[name]
    head, dot, rest = name.partition(".")
    inner = value.get(head)
    return field_of(inner, rest) if dot and isinstance(inner, Mapping) else None


def _type_of(value: Any) -> str:
    """The JSON type of a value, for a message."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true or false"
    kinds = {dict: "an object", list: "a list", str: "text", int: "a number", float: "a number"}
    return kinds[type(value)]


def decompressed(file: BinaryIO, compression: Compression | None) -> Iterator[bytes]:
    """Yield the content of a file in blocks.  Raises UnusableFileError; RefusedError without zstandard."""
    if compression == "gzip":
        return _gzip_blocks(file)
    if compression == "zstandard":
        return _zstandard_blocks(file)
    return iter(lambda: file.read(BLOCK_BYTES), b"")


def _gzip_blocks(file: BinaryIO) -> Iterator[bytes]:
    """The content of all members of gzip data."""
    is_empty = True
    try:
        with gzip.GzipFile(fileobj=file) as content:
            while block := content.read(BLOCK_BYTES):
                yield block
        is_empty = file.tell() == 0
    except EOFError as error:
        raise UnusableFileError("is truncated: the gzip data ends before its end mark") from error
    except (zlib.error, gzip.BadGzipFile) as error:
        raise UnusableFileError(f"is damaged gzip data: {error}") from error
    if is_empty:
        raise UnusableFileError("is empty, which gzip data never is")


def _zstandard_blocks(file: BinaryIO) -> Iterator[bytes]:
    """The content of all frames of zstandard data."""
    zstandard = optional_package("zstandard", "zstandard", "zstandard data (.zst)")
    decompressor = zstandard.ZstdDecompressor(max_window_size=LARGEST_WINDOW)
    frame, n_frames, has_begun = decompressor.decompressobj(), 0, False
    while data := file.read(COMPRESSED_BYTES):
        while data:
            try:
                content = frame.decompress(data)
            except zstandard.ZstdError as error:
                raise UnusableFileError(f"is damaged zstandard data: {error}") from error
            if content:
                yield content
            has_begun, data = not frame.eof, frame.unused_data
            if frame.eof:
                frame, n_frames = decompressor.decompressobj(), n_frames + 1
    if has_begun:
        raise UnusableFileError("is truncated: its last zstandard frame has no end")
    if n_frames == 0:
        raise UnusableFileError("is empty, which zstandard data never is")


def _lines(blocks: Iterator[bytes], most: int) -> Iterator[bytes | None]:
    """Yield the lines of the blocks without their ends; None for a line of more than `most` bytes, which is not kept."""
    parts: list[bytes] = []
    n_bytes = 0
    for block in blocks:
        start = 0
        while (end := block.find(b"\n", start)) >= 0:
            n_bytes += end - start
            yield b"".join([*parts, block[start:end]]) if n_bytes <= most else None
            parts, n_bytes, start = [], 0, end + 1
        n_bytes += len(block) - start
        if n_bytes > most:
            parts = []
        elif start < len(block):
            parts.append(block[start:])
    if n_bytes:
        yield b"".join(parts) if n_bytes <= most else None
