"""Element types by their safetensors names, and the numpy types that carry their bits."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from llmrun.checkpoint.strict_json import COUNT_MAX, WrongValue, count_at, list_at, shown

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
