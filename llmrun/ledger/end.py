"""Finds where the records of a ledger end, from the records themselves.

A preallocated record is all zeros.  A power cut may leave a part of the last record: disks tear at multiples of
512 bytes and records start at multiples of 16, so what is missing is 16 bytes or more of zeros at one side.
Anything else after the last whole record is damage.
"""

import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmrun.ledger.header import HEADER_BYTES
from llmrun.ledger.record import PRESENT_WORD, RECORD_BYTES, RECORD_WORDS

_BLOCK_RECORDS = 1 << 16
_TORN_BYTES = 16


@dataclass(frozen=True)
class End:
    """Where the records of a file end.

    n_records:  whole records from the first one on.
    torn:       a part of one more record follows: its writer was interrupted.
    damaged:    more follows than an interrupted writer leaves behind.
    """

    n_records: int
    torn: bool = False
    damaged: bool = False


def find_end(descriptor: int, first_step: int) -> End:
    """Where the records end.  Reads with `pread`: the file may grow meanwhile, or be cut.

    A trainer that appends while this reads can look like damage; so damage is believed when it is seen twice.
    """
    end = _find_end(descriptor, first_step, 0)
    while end.damaged:
        again = _find_end(descriptor, first_step, end.n_records)
        if again == end:
            break
        end = again
    return end


def _find_end(descriptor: int, first_step: int, n_records: int) -> End:
    """The end, where `n_records` are known to be whole."""
    while count := _count_written(_read(descriptor, n_records), first_step + n_records):
        n_records += count
    if n_records and _lacks_end(_record_at(descriptor, n_records - 1)):
        n_records -= 1
    following = _record_at(descriptor, n_records)
    more = _nonzero_from(descriptor, n_records + 1)
    torn = any(following) and _is_torn(following)
    return End(n_records, torn=torn and not more, damaged=more or (any(following) and not torn))


def _lacks_end(record: bytes) -> bool:
    """Whether the end of a record is missing.  A whole record ends in a chain."""
    return len(record) < RECORD_BYTES or not any(record[-_TORN_BYTES:])


def _is_torn(record: bytes) -> bool:
    """Whether the beginning or the end of a record that was not counted is missing."""
    return _lacks_end(record) or not any(record[:_TORN_BYTES])


def _record_at(descriptor: int, index: int) -> bytes:
    return os.pread(descriptor, RECORD_BYTES, HEADER_BYTES + index * RECORD_BYTES)


def _nonzero_from(descriptor: int, index: int) -> bool:
    """Whether anything but zeros lies from record `index` on."""
    while block := _read(descriptor, index):
        if np.frombuffer(block, np.uint8).any():
            return True
        index += _BLOCK_RECORDS
    return False


def _read(descriptor: int, index: int) -> bytes:
    """A block of records from record `index` on; less at the end of the file."""
    return os.pread(descriptor, _BLOCK_RECORDS * RECORD_BYTES, HEADER_BYTES + index * RECORD_BYTES)


def _count_written(raw: bytes, first_step: int) -> int:
    """How many records at the beginning of `raw` are those of `first_step`, `first_step` + 1, …"""
    n_whole = len(raw) // RECORD_BYTES
    words: NDArray[np.uint64] = np.frombuffer(raw, "<u8", n_whole * RECORD_WORDS).reshape(-1, RECORD_WORDS)
    steps = np.arange(first_step, first_step + n_whole, dtype=np.uint64)
    written = (words[:, 0] == steps) & (words[:, PRESENT_WORD] & np.uint64(1) == 1)
    return n_whole if written.all() else int(written.argmin())
