"""The tensor digest in numpy, and the search by digests for the one word in which two tensors differ."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from llmrun.core.splitmix import MASK_64, splitmix64_array

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
    """The digest of a whole tensor.  words: int32, any shape, in order."""
    signed = words.reshape(-1).astype(np.int64).view(np.uint64)
    rows = row_constants(-(-len(signed) // ROW_WORDS))
    total = 0
    for row, constant in enumerate(rows):
        block = signed[row * ROW_WORDS : (row + 1) * ROW_WORDS]
        total += int((block * columns()[: len(block)]).sum(dtype=np.uint64)) * int(constant)
    return total & MASK_64


CHANGE_MAX = 2**16
"""The largest change searched for, besides single bits.  A wrong word is reported with probability 7e-15."""

WORDS_MAX = 2**28
_NEWTON_STEPS = 5
_WORD_BITS = 32


@dataclass(frozen=True)
class WordChange:
    """Word `index` of b equals that of a plus `change`, as signed 32-bit integers."""

    index: int
    change: int


def find_changed_word(digest_a: int, digest_b: int, n_words: int) -> WordChange | None:
    """The only word whose change explains the digests of two tensors of `n_words` words; None if none or several do.

    Considers changes of at most CHANGE_MAX and of single bits.  A million words take about 10 ms; tensors of more than
    WORDS_MAX words are not searched.
    """
    delta = (digest_b - digest_a) & MASK_64
    if not delta or n_words > WORDS_MAX:
        return None
    found: list[WordChange] = []
    for row, inverse in enumerate(_inverse(row_constants(-(-n_words // ROW_WORDS)))):
        scaled = np.uint64(delta * int(inverse) & MASK_64)
        changes = (_inverse_columns()[: n_words - row * ROW_WORDS] * scaled).view(np.int64)
        found += [
            WordChange(row * ROW_WORDS + int(at), int(changes[at]))
            for at in np.flatnonzero(_is_small(changes))
        ]
    return found[0] if len(found) == 1 else None


def _is_small(changes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether a change is small, or that of one bit."""
    size = np.abs(changes)
    one_bit = (size & (size - 1) == 0) & (size > 0) & (size < 2**_WORD_BITS)
    small: NDArray[np.bool_] = ((size > 0) & (size <= CHANGE_MAX)) | one_bit
    return small


@cache
def _inverse_columns() -> NDArray[np.uint64]:
    return _inverse(columns())


def _inverse(odd: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Inverses mod 2^64 of odd numbers by Newton's method: x(2 - ax) doubles the correct bits; x = a has 3."""
    found = odd.copy()
    for _ in range(_NEWTON_STEPS):
        found *= np.uint64(2) - odd * found
    return found
