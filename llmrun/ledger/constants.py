"""The digest of docs/ledger-format.md in numpy: its constants, and sums over words in memory."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from llmrun.splitmix import MASK_64, splitmix64_array

ROW_WORDS = 65_536
_ROWS_FROM = 2**40


@cache
def columns() -> NDArray[np.uint64]:
    """splitmix64(i) | 1 for i in [0, 65536): uint64 [65536]."""
    return splitmix64_array(np.arange(ROW_WORDS, dtype=np.uint64)) | np.uint64(1)


def row_constants(n_rows: int) -> NDArray[np.uint64]:
    """splitmix64(2^40 + r) | 1 for r in [0, n_rows): uint64 [n_rows]."""
    return splitmix64_array(np.arange(_ROWS_FROM, _ROWS_FROM + n_rows, dtype=np.uint64)) | np.uint64(1)


def digest_of_words(words: NDArray[np.int32]) -> int:
    """The digest of a whole tensor, given as its words: int32, any shape, in order."""
    signed = words.reshape(-1).astype(np.int64).view(np.uint64)
    rows = row_constants(-(-len(signed) // ROW_WORDS))
    total = 0
    for row, constant in enumerate(rows):
        block = signed[row * ROW_WORDS : (row + 1) * ROW_WORDS]
        total += int((block * columns()[: len(block)]).sum(dtype=np.uint64)) * int(constant)
    return total & MASK_64
