"""Reads a ledger through a memory map: also one that a running trainer is appending to.

How many records there are is read from the records themselves.  A preallocated record is all zeros; the last
record that was written may be torn, and is then left out and named.
"""

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llmrun.ledger.chain import first_broken
from llmrun.ledger.end import find_end
from llmrun.ledger.header import HEADER_BYTES, Header
from llmrun.ledger.record import RECORD_DTYPE, RECORD_WORDS, Record


class LedgerReader:
    """One ledger, or the tail of one, as it was when it was opened.

    path:        the file.
    header:      producer, quantities, first step.
    n_records:   number of whole records.
    torn_step:   step of a record that is there in part; None where the file ends cleanly.
    Raises FileNotFoundError, InputError (another version), DamagedError (no header).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.header = Header.from_bytes(os.pread(descriptor, HEADER_BYTES, 0), path)
            end = find_end(descriptor, self.header.first_step)
        finally:
            os.close(descriptor)
        self.n_records = end.n_records
        self.torn_step = self.last_step + 1 if end.torn else None
        self._damaged_after_end = end.damaged
        self._words = self._map()

    @property
    def first_step(self) -> int:
        """Step of the first record: 0 unless this is a tail, or the run begins with a migrated state."""
        return self.header.first_step

    @property
    def last_step(self) -> int:
        """Step of the last record; one less than `first_step` where there is none."""
        return self.header.first_step + self.n_records - 1

    @property
    def ends_cleanly(self) -> bool:
        """Whether nothing but reserved room follows the last record."""
        return self.torn_step is None and not self._damaged_after_end

    @property
    def steps(self) -> range:
        """The steps of all records."""
        return range(self.first_step, self.last_step + 1)

    @property
    def words(self) -> NDArray[np.uint64]:
        """All records as words: [n_records, 14], uint64, a memory map; words 10 to 13 are the chain."""
        return self._words

    @property
    def array(self) -> NDArray[np.void]:
        """All records by name: [n_records], RECORD_DTYPE, a memory map."""
        return self._words.view(RECORD_DTYPE).reshape(self.n_records)

    @property
    def chain(self) -> bytes:
        """The chain after the last record; what stands before record 0 where there is none."""
        return self.chain_at(self.last_step) if self.n_records else self.header.before

    def record(self, step: int) -> Record:
        """The record of `step`.  Raises IndexError where it is not there."""
        return Record.from_bytes(self._words[self._index(step)].tobytes())

    def chain_at(self, step: int) -> bytes:
        """The chain after `step`; that before the first record where the ledger begins at a later step than 0.

        Raises IndexError where the record is not there.
        """
        if step == self.first_step - 1 and self.first_step > 0:
            return self.header.before
        return self.record(step).chain

    def verify_chain(self, start: int | None = None) -> int | None:
        """The first step whose record does not hold; None where all do.

        start: a step; the records before it are taken as sound (they equal another ledger's, say).
        """
        skip = 0 if start is None else max(start - self.first_step, 0)
        broken = first_broken(self._words, self.header.before, skip)
        if broken is not None:
            return self.first_step + broken
        return self.last_step + 1 if self._damaged_after_end else None

    def _index(self, step: int) -> int:
        if step not in self.steps:
            raise IndexError(f"{self.path} has no record of step {step}")
        return step - self.first_step

    def _map(self) -> NDArray[np.uint64]:
        if self.n_records == 0:
            return np.empty((0, RECORD_WORDS), dtype="<u8")
        shape = (self.n_records, RECORD_WORDS)
        return np.memmap(self.path, dtype="<u8", mode="r", offset=HEADER_BYTES, shape=shape)
