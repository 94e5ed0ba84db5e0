"""The header of a safetensors file: element types, rendering, parsing.  Needs no numpy, so that the planner can size files.

A file is 8 bytes (length of the header, little-endian), the header as JSON padded with spaces to a multiple of 64
bytes, then the elements of the tensors in the order of the header, without gaps.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from llmrun.storage.strict_json import (
    COUNT_MAX,
    WrongValue,
    count_at,
    list_at,
    object_at,
    parse_object,
    shown,
)

ELEMENT_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip
"""The element types by their safetensors names."""

DIMENSIONS_MAX = 16
LENGTH_BYTES = 8
HEADER_BYTES_MAX = 100_000_000
"""The limit of the `safetensors` library."""

_ALIGNMENT_BYTES = 64
_METADATA = "__metadata__"


class TensorHeader(NamedTuple):
    """A tensor to be written: its name, element type and shape in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class HeaderEntry:
    """A tensor in a file: `start` and `stop` are bytes from the beginning of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def numel(shape: Sequence[int]) -> int:
    """The number of elements of a shape; 1 for a scalar."""
    return math.prod(shape)


def dtype_at(value: object, where: str) -> str:
    """`value` as the name of an element type.  Raises WrongValue."""
    if not isinstance(value, str) or value not in ELEMENT_BYTES:
        raise WrongValue(f"{where} must be a known element type, got {shown(value)}")
    return value


def shape_at(value: object, where: str) -> tuple[int, ...]:
    """`value` as a shape of a size that a file can have.  Raises WrongValue."""
    shape = tuple(count_at(extent, where) for extent in list_at(value, where))
    if len(shape) > DIMENSIONS_MAX:
        raise WrongValue(f"{where} must have at most {DIMENSIONS_MAX} dimensions, got {len(shape)}")
    # Also of a tensor without elements: numpy multiplies the other extents.
    if math.prod(extent for extent in shape if extent) * 8 > COUNT_MAX:
        raise WrongValue(f"{where} is larger than any file: {shown(list(shape))}")
    return shape


def render_header(tensors: Iterable[TensorHeader]) -> bytes:
    """The bytes before the elements of `tensors`, which follow in this order."""
    # Transformers loads a file only if its metadata says which library's tensors it holds.
    header: dict[str, object] = {_METADATA: {"format": "pt"}}
    end = 0
    for name, dtype, shape in tensors:
        assert name not in header, f"{name} twice in one file"
        start, end = end, end + numel(shape) * ELEMENT_BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    padding = -(LENGTH_BYTES + len(text)) % _ALIGNMENT_BYTES
    return (len(text) + padding).to_bytes(LENGTH_BYTES, "little") + text + b" " * padding


def parse_header(content: bytes, file_bytes: int) -> dict[str, HeaderEntry]:
    """The tensors of a file by name, each checked to lie inside it and next to the others.

    content: the JSON without the length before it.  file_bytes: the size of the file.  Raises WrongValue.
    """
    header = parse_object(content)
    data_start = LENGTH_BYTES + len(content)
    metadata = object_at(header.pop(_METADATA, {}), _METADATA)
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise WrongValue(f"{_METADATA} {shown(key)} must be a string, got {shown(value)}")
    entries = {name: _entry(value, name, data_start) for name, value in header.items()}
    end = data_start
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
        if entry.start != end:
            raise WrongValue(f"tensor {shown(name)} must begin at byte {end:,}, got {entry.start:,}")
        end = entry.stop
    if end != file_bytes:
        raise WrongValue(f"tensors must end at byte {file_bytes:,}, got {end:,}")
    return entries


def _entry(value: object, name: str, data_start: int) -> HeaderEntry:
    where = f"tensor {shown(name)}"
    fields = object_at(value, where, ("dtype", "shape", "data_offsets"))
    dtype = dtype_at(fields["dtype"], f"{where} dtype")
    shape = shape_at(fields["shape"], f"{where} shape")
    offsets = [count_at(offset, f"{where} offset") for offset in list_at(fields["data_offsets"], where)]
    n_bytes = numel(shape) * ELEMENT_BYTES[dtype]
    if len(offsets) != 2 or offsets[1] - offsets[0] != n_bytes:
        raise WrongValue(f"{where} must have offsets {n_bytes:,} bytes apart, got {shown(offsets)}")
    return HeaderEntry(dtype, shape, data_start + offsets[0], data_start + offsets[1])
