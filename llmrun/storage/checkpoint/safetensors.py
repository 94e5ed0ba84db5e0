"""One safetensors file: written from 1-D arrays, read by ranges of elements."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from llmrun.storage.checkpoint.errors import damaged
from llmrun.storage.checkpoint.files import opened, read_into
from llmrun.storage.checkpoint.header import (
    HEADER_BYTES_MAX,
    LENGTH_BYTES,
    HeaderEntry,
    TensorHeader,
    parse_header,
    render_header,
)
from llmrun.storage.durable import DISK, Disk, write_new
from llmrun.storage.strict_json import WrongValue

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
"""The numpy type that carries the elements of each type: unsigned integers of the same bits for BF16 and F8."""

_NAMES = {"f8": "F64", "f4": "F32", "f2": "F16", "i8": "I64", "i4": "I32", "i2": "I16", "i1": "I8"} | {
    "u8": "U64",
    "u4": "U32",
    "u2": "U16",
    "u1": "U8",
    "b1": "BOOL",
}


def name_of(dtype: np.dtype[np.generic]) -> str:
    """The safetensors name of the elements of a numpy array."""
    return _NAMES[dtype.str[1:]]


def bytes_of(values: npt.NDArray[np.generic]) -> memoryview:
    """The bytes of a contiguous array, not copied."""
    return values.reshape(-1).view(np.uint8).data


@dataclass(frozen=True, eq=False)
class Stored:
    """A tensor to write: `values` is 1-D and contiguous, `shape` is what the header says."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    values: npt.NDArray[np.generic]


def write_tensors(path: Path, tensors: Sequence[Stored], disk: Disk = DISK) -> tuple[int, str]:
    """Write a new safetensors file and fsync it.  Returns (bytes, sha256 in hex)."""
    return write_new(path, contents_of(tensors), disk)


def contents_of(tensors: Sequence[Stored]) -> list[bytes | memoryview]:
    """The bytes of a safetensors file: its header and views of the tensors' memory.

    Wide elements come first, so that each tensor starts at a multiple of its element's size.
    """
    ordered = sorted(tensors, key=lambda tensor: -DTYPES[tensor.dtype].itemsize)
    header = render_header(TensorHeader(tensor.name, tensor.dtype, tensor.shape) for tensor in ordered)
    return [header, *(bytes_of(tensor.values) for tensor in ordered)]


def read_header(path: Path) -> dict[str, HeaderEntry]:
    """The tensors in a file, by name, each checked to lie inside it and next to the others.

    Raises CheckpointDamage.
    """
    with opened(path) as descriptor:
        file_bytes = os.fstat(descriptor).st_size
        length_bytes = bytearray(LENGTH_BYTES)
        read_into(path, descriptor, memoryview(length_bytes), offset=0)
        length = int.from_bytes(length_bytes, "little")
        if length > min(HEADER_BYTES_MAX, file_bytes - LENGTH_BYTES):
            raise damaged(path, f"states a header of {length:,} bytes in a file of {file_bytes:,}", "size")
        content = bytearray(length)
        read_into(path, descriptor, memoryview(content), offset=LENGTH_BYTES)
    try:
        return parse_header(bytes(content), file_bytes)
    except WrongValue as error:
        raise damaged(path, f"has a damaged header: {error}") from None


def read_range(path: Path, entry: HeaderEntry, start: int, out: npt.NDArray[np.generic]) -> None:
    """Fill `out` (1-D, contiguous, of the entry's element type) with elements from `start` on.

    Raises CheckpointDamage.  Needs no memory beyond `out`.
    """
    first = entry.start + start * out.itemsize
    assert entry.start <= first
    assert first + out.nbytes <= entry.stop
    with opened(path) as descriptor:
        read_into(path, descriptor, bytes_of(out), offset=first)
