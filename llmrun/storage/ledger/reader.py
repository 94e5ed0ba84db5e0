"""Reads a ledger through a memory map, also while a trainer appends to it.

Contains the header (4,096 bytes, readable with `head -2`), the search for the end of the records, and the reader.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from llmrun.errors import DamagedError, InputError
from llmrun.storage.ledger.chain import FORMAT_NAME, first_broken
from llmrun.storage.ledger.record import (
    CHAIN_BYTES,
    PRESENT_WORD,
    QUANTITIES,
    RECORD_BYTES,
    RECORD_DTYPE,
    RECORD_WORDS,
    LedgerRecord,
)

HEADER_BYTES = 4096
_FAMILY = b"llmrun-ledger/"


@dataclass(frozen=True)
class Header:
    """The header of a ledger.

    producer:      free text, such as `llmrun 0.1.0`.  The chain does not cover the header.
    quantities:    that the trainer records; a record never holds others.
    first_step:    step of the first record: 0 in a whole ledger, more in a tail that was cut off and in the ledger of
                   a migrated run.
    chain_before:  chain of the step before `first_step`; empty if that is 0.
    """

    producer: str
    quantities: frozenset[str] = frozenset(QUANTITIES)
    first_step: int = 0
    chain_before: bytes = b""

    @property
    def before(self) -> bytes:
        """The chain before the first record."""
        return self.chain_before if self.first_step else FORMAT_NAME

    def to_bytes(self) -> bytes:
        """The 4,096 bytes.  Raises ValueError if the producer's name is too long or a quantity is unknown."""
        unknown = self.quantities - set(QUANTITIES)
        if unknown or "step" not in self.quantities:
            raise ValueError(
                f"quantities must be `step` and some of {QUANTITIES}, got {sorted(self.quantities)}"
            )
        fields = {
            "format": FORMAT_NAME.decode(),
            "producer": self.producer,
            "header_bytes": HEADER_BYTES,
            "record_bytes": RECORD_BYTES,
            "first_step": self.first_step,
            "chain_before": self.chain_before.hex(),
            "quantities": [name for name in QUANTITIES if name in self.quantities],
        }
        text = FORMAT_NAME + b"\n" + json.dumps(fields).encode()
        if len(text) >= HEADER_BYTES:
            raise ValueError(f"producer must fit into the header, got {len(self.producer)} characters")
        return text.ljust(HEADER_BYTES - 1) + b"\n"

    @classmethod
    def from_bytes(cls, raw: bytes, path: Path) -> Self:
        """The header in the first bytes of the file `path`.

        Raises InputError for a ledger of another version, DamagedError for anything else.
        """
        name, _, rest = raw.partition(b"\n")
        if name != FORMAT_NAME and name.startswith(_FAMILY) and len(name) < 32:
            raise InputError(
                f"{path}: unsupported ledger format {name.decode(errors='replace')} "
                f"(expected {FORMAT_NAME.decode()})"
            )
        if name != FORMAT_NAME or len(raw) < HEADER_BYTES:
            raise DamagedError(f"{path} is not a ledger: its header is missing or cut short")
        try:
            return cls._from_fields(json.loads(rest))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedError(f"the header of {path} is damaged", caused_by=[str(error)]) from error

    @classmethod
    def _from_fields(cls, fields: dict[str, object]) -> Self:
        """The header in a JSON object.  Raises ValueError, KeyError or TypeError."""
        sizes = (fields["header_bytes"], fields["record_bytes"])
        if sizes != (HEADER_BYTES, RECORD_BYTES):
            raise ValueError(f"header and record must have {(HEADER_BYTES, RECORD_BYTES)} bytes, got {sizes}")
        first_step = fields["first_step"]
        chain_before = bytes.fromhex(str(fields["chain_before"]))
        quantities = fields["quantities"]
        if not isinstance(first_step, int) or first_step < 0:
            raise ValueError(f"first_step must be an integer from 0 on, got {first_step!r}")
        if len(chain_before) != (CHAIN_BYTES if first_step else 0):
            raise ValueError(f"chain_before must have 32 bytes, or 0 at step 0, got {len(chain_before)}")
        if not isinstance(quantities, list) or not set(quantities) <= set(QUANTITIES):
            raise ValueError(f"quantities must be some of {QUANTITIES}, got {quantities!r}")
        return cls(str(fields["producer"]), frozenset(quantities), first_step, chain_before)


def is_ledger(path: Path) -> bool:
    """Whether a file begins like a ledger of any version.  Raises OSError."""
    with path.open("rb") as file:
        return file.read(len(_FAMILY)) == _FAMILY


_BLOCK_RECORDS = 1 << 16
_TORN_BYTES = 16


@dataclass(frozen=True)
class End:
    """The end of the records of a file.

    n_records:  whole records from the first one on.
    torn:       whether a part of one more record follows, because its writer was interrupted.
    damaged:    whether more follows than an interrupted writer leaves.
    """

    n_records: int
    torn: bool = False
    damaged: bool = False


def find_end(descriptor: int, first_step: int) -> End:
    """The end of the records.  Reads with `pread`, because the file may grow or be cut meanwhile.

    A concurrent append can look like damage, so damage is reported only if it is found twice.
    """
    end = _find_end(descriptor, first_step, 0)
    while end.damaged:
        again = _find_end(descriptor, first_step, end.n_records)
        if again == end:
            break
        end = again
    return end


def _find_end(descriptor: int, first_step: int, n_records: int) -> End:
    """The end, if `n_records` are known to be whole."""
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
    """Whether anything but zeros follows from record `index` on."""
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


class LedgerReader:
    """A ledger, or the tail of one, as it was when it was opened.

    path:        the file.
    header:      producer, quantities, first step.
    n_records:   number of whole records.
    torn_step:   step of a record that is there in part, or None.
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
        """Step of the last record; `first_step` - 1 if there is none."""
        return self.header.first_step + self.n_records - 1

    @property
    def ends_cleanly(self) -> bool:
        """Whether nothing but allocated zeros follows the last record."""
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
        """The chain after the last record, or `header.before` if there is none."""
        return self.chain_at(self.last_step) if self.n_records else self.header.before

    def record(self, step: int) -> LedgerRecord:
        """The record of `step`.  Raises IndexError if there is none."""
        return LedgerRecord.from_bytes(self._words[self._index(step)].tobytes())

    def chain_at(self, step: int) -> bytes:
        """The chain after `step`, which may also be the step before a first record later than 0.

        Raises IndexError if there is no record of the step.
        """
        if step == self.first_step - 1 and self.first_step > 0:
            return self.header.before
        return self.record(step).chain

    def verify_chain(self, start: int | None = None) -> int | None:
        """The first step whose record does not fit the chain; None if all do.

        start: a step; the records before it are not checked, because they equal those of another ledger, for example.
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
