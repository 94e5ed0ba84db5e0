"""One safetensors file: written from 1-D arrays, read by ranges of elements; and its element types."""

import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from llmrun.storage.checkpoint.errors import damaged
from llmrun.storage.checkpoint.regular_file import opened, read_into
from llmrun.storage.durable import DISK, Disk, write_new
from llmrun.storage.strict_json import (
    COUNT_MAX,
    WrongValue,
    count_at,
    list_at,
    object_at,
    parse_object,
    shown,
)

DIMENSIONS_MAX = 16

DTYPES: dict[str, np.dtype[np.generic]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "F8_E4M3": np.dtype("u1"),
    "F8_E5M2": np.dtype("u1"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
"""numpy has no BF16 and no F8: their elements are carried as unsigned integers of the same bits."""

_NAMES = {"f8": "F64", "f4": "F32", "f2": "F16", "i8": "I64", "i4": "I32", "i2": "I16", "i1": "I8"} | {
    "u8": "U64",
    "u4": "U32",
    "u2": "U16",
    "u1": "U8",
    "b1": "BOOL",
}


def name_of(dtype: np.dtype[np.generic]) -> str:
    """The safetensors name of a numpy type."""
    return _NAMES[dtype.str[1:]]


def bytes_of(values: npt.NDArray[np.generic]) -> memoryview:
    """The bytes of a contiguous array, not copied."""
    return values.reshape(-1).view(np.uint8).data


def numel(shape: Sequence[int]) -> int:
    """The number of elements of a shape; 1 for a scalar."""
    return math.prod(shape)


def dtype_at(value: object, where: str) -> str:
    """`value` as the name of an element type.  Raises WrongValue."""
    if not isinstance(value, str) or value not in DTYPES:
        raise WrongValue(f"{where} is {shown(value)}, not a known element type")
    return value


def shape_at(value: object, where: str) -> tuple[int, ...]:
    """`value` as a shape of a size that a file can have.  Raises WrongValue."""
    shape = tuple(count_at(extent, where) for extent in list_at(value, where))
    if len(shape) > DIMENSIONS_MAX:
        raise WrongValue(f"{where} has {len(shape)} dimensions, {DIMENSIONS_MAX} are allowed")
    # Also of a tensor without elements: numpy multiplies the other extents.
    if math.prod(extent for extent in shape if extent) * 8 > COUNT_MAX:
        raise WrongValue(f"{where} is {shown(list(shape))}, larger than any file")
    return shape


HEADER_BYTES_MAX = 100_000_000
"""The limit of the `safetensors` library."""

_ALIGNMENT_BYTES = 64
_METADATA = "__metadata__"
_LENGTH_BYTES = 8


@dataclass(frozen=True, eq=False)
class Stored:
    """A tensor to write: `values` is 1-D and contiguous, `shape` is what the header says."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    values: npt.NDArray[np.generic]


@dataclass(frozen=True)
class HeaderEntry:
    """A tensor in a file: `start` and `stop` are bytes from the beginning of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def write_tensors(path: Path, tensors: Sequence[Stored], disk: Disk = DISK) -> tuple[int, str]:
    """Write a new safetensors file and fsync it.  Returns (bytes, sha256 in hex)."""
    return write_new(path, contents_of(tensors), disk)


def contents_of(tensors: Sequence[Stored]) -> list[bytes | memoryview]:
    """The bytes of a safetensors file: its header and views of the tensors' memory.

    Wide elements come first, so that each tensor starts at a multiple of its element's size.
    """
    return list(_contents(sorted(tensors, key=lambda tensor: -DTYPES[tensor.dtype].itemsize)))


def _contents(tensors: Sequence[Stored]) -> Iterable[bytes | memoryview]:
    # Transformers loads a file only where its metadata says which library's tensors it holds.
    header: dict[str, object] = {_METADATA: {"format": "pt"}}
    end = 0
    for tensor in tensors:
        assert tensor.name not in header, f"{tensor.name} twice in one file"
        start, end = end, end + tensor.values.nbytes
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    padding = -(_LENGTH_BYTES + len(text)) % _ALIGNMENT_BYTES
    yield (len(text) + padding).to_bytes(_LENGTH_BYTES, "little") + text + b" " * padding
    for tensor in tensors:
        yield bytes_of(tensor.values)


def read_header(path: Path) -> dict[str, HeaderEntry]:
    """The tensors in a file, by name, each checked to lie inside it and beside the others.

    Raises CheckpointDamage.
    """
    with opened(path) as descriptor:
        file_bytes = os.fstat(descriptor).st_size
        length_bytes = bytearray(_LENGTH_BYTES)
        read_into(path, descriptor, memoryview(length_bytes), offset=0)
        length = int.from_bytes(length_bytes, "little")
        if length > min(HEADER_BYTES_MAX, file_bytes - _LENGTH_BYTES):
            raise damaged(path, f"states a header of {length:,} bytes in a file of {file_bytes:,}")
        content = bytearray(length)
        read_into(path, descriptor, memoryview(content), offset=_LENGTH_BYTES)
    try:
        return _entries(bytes(content), _LENGTH_BYTES + length, file_bytes)
    except WrongValue as error:
        raise damaged(path, f"has a damaged header: {error}") from None


def _entries(content: bytes, data_start: int, file_bytes: int) -> dict[str, HeaderEntry]:
    header = parse_object(content)
    metadata = object_at(header.pop(_METADATA, {}), _METADATA)
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise WrongValue(f"{_METADATA} {shown(key)} is not a string")
    entries = {name: _entry(value, name, data_start) for name, value in header.items()}
    end = data_start
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
        if entry.start != end:
            raise WrongValue(f"tensor {shown(name)} begins at byte {entry.start:,}, expected {end:,}")
        end = entry.stop
    if end != file_bytes:
        raise WrongValue(f"tensors end at byte {end:,} of {file_bytes:,}")
    return entries


def _entry(value: object, name: str, data_start: int) -> HeaderEntry:
    where = f"tensor {shown(name)}"
    fields = object_at(value, where, ("dtype", "shape", "data_offsets"))
    dtype = dtype_at(fields["dtype"], f"{where} dtype")
    shape = shape_at(fields["shape"], f"{where} shape")
    offsets = [count_at(offset, f"{where} offset") for offset in list_at(fields["data_offsets"], where)]
    if len(offsets) != 2 or offsets[1] - offsets[0] != numel(shape) * DTYPES[dtype].itemsize:
        raise WrongValue(f"{where} of {dtype} {list(shape)} has the offsets {shown(offsets)}")
    return HeaderEntry(dtype, shape, data_start + offsets[0], data_start + offsets[1])


def read_range(path: Path, entry: HeaderEntry, start: int, out: npt.NDArray[np.generic]) -> None:
    """Fill `out` (1-D, contiguous, of the entry's element type) with elements from `start` on.

    Raises CheckpointDamage.  Needs no memory beyond `out`.
    """
    first = entry.start + start * out.itemsize
    assert entry.start <= first
    assert first + out.nbytes <= entry.stop
    with opened(path) as descriptor:
        read_into(path, descriptor, bytes_of(out), offset=first)
