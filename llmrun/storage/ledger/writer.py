"""Writes a ledger, one record per finished step; cuts it back to the step of a checkpoint for a resume."""

import os
from collections.abc import Set as AbstractSet
from dataclasses import replace
from pathlib import Path
from typing import Self

from llmrun.errors import RefusedError, RunFailedError
from llmrun.storage.durable import DISK, TEMPORARY_PREFIX, Disk, open_to_write, replace_file
from llmrun.storage.ledger.chain import next_chain
from llmrun.storage.ledger.reader import HEADER_BYTES, Header, LedgerReader
from llmrun.storage.ledger.record import QUANTITIES, RECORD_BYTES, LedgerRecord, quantities_due

__all__ = ["LedgerReader", "LedgerWriter"]

RESERVE_RECORDS = 1 << 16
"""Records for which disk space is allocated at a time."""


class LedgerWriter:
    """Appends records to one ledger.

    chain:      chain after the last record, or before record 0 if there is none.
    next_step:  step of the next record.
    """

    def __init__(self, descriptor: int, path: Path, header: Header, n_steps: int, disk: Disk) -> None:
        self.path = path
        self.header = header
        self.chain = header.before
        self.next_step = header.first_step
        self._n_steps = n_steps
        self._reserved_step = header.first_step
        self._descriptor = descriptor
        self._disk = disk

    @classmethod
    def create(
        cls,
        path: Path,
        producer: str,
        n_steps: int,
        quantities: AbstractSet[str] = frozenset(QUANTITIES),
        disk: Disk = DISK,
        after: tuple[int, bytes] | None = None,
    ) -> Self:
        """Create a ledger atomically and durably.

        producer:   free text, such as `llmrun 0.1.0`.
        n_steps:    of the run; more may follow.
        quantities: to record; each record must hold those of them that `quantities_due` names.
        after:      (finished steps, 32-byte chain) of a migrated state: the first record is that of the next step.
        Raises FileExistsError, and RefusedError if it cannot be written.
        """
        if path.exists():
            raise FileExistsError(f"{path} exists")
        first_step, chain_before = (0, b"") if after is None else (after[0] + 1, after[1])
        header = Header(producer, frozenset(quantities), first_step, chain_before)
        content = header.to_bytes()
        temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}-{os.getpid()}")
        try:
            disk.remove_file(temporary)
            writer = cls(disk.create(temporary), path, header, n_steps, disk)
            writer._put_in_place(temporary, content)
        except OSError as error:
            disk.remove_file(temporary)
            raise _cannot_write(RefusedError, path, error) from error
        return writer

    def _put_in_place(self, temporary: Path, content: bytes) -> None:
        """Write the header, allocate space, and rename the file.  Raises OSError."""
        try:
            self._disk.write(self._descriptor, memoryview(content))
            self._reserve()
            self._disk.fsync(self._descriptor)
            self._disk.rename(temporary, self.path)
            self._disk.fsync_directory(self.path.parent)
        except OSError:
            self.close()
            raise

    @classmethod
    def resume(cls, path: Path, at_step: int | None, n_steps: int, disk: Disk = DISK) -> Self:
        """Open the ledger of a run that continues after `at_step`; None: before record 0.

        Raises RefusedError if it does not end exactly there (see `cut_back`), or cannot be written.
        """
        reader = LedgerReader(path)
        last_step = -1 if at_step is None else at_step
        if reader.last_step != last_step:
            raise RefusedError(f"{path} must end at step {last_step}, got step {reader.last_step}")
        if not reader.ends_cleanly:
            raise RefusedError(f"{path} must end cleanly: a torn record follows step {last_step}")
        try:
            descriptor = open_to_write(path, disk)
        except OSError as error:
            raise _cannot_write(RefusedError, path, error) from error
        writer = cls(descriptor, path, reader.header, n_steps, disk)
        writer.chain = reader.chain
        writer.next_step = writer._reserved_step = last_step + 1
        os.lseek(writer._descriptor, HEADER_BYTES + reader.n_records * RECORD_BYTES, os.SEEK_SET)
        try:
            writer._reserve()
        except OSError as error:
            writer.close()
            raise _cannot_write(RefusedError, path, error) from error
        return writer

    def append(self, record: LedgerRecord) -> LedgerRecord:
        """Write the record of the next step; returns it with its chain.  Does not sync.

        record: of step `next_step`, with the quantities that are due, finite.  Its chain is ignored.
        Raises ValueError for any other record, RunFailedError if it cannot be written.
        """
        due = quantities_due(self.next_step) & self.header.quantities
        if record.step != self.next_step or record.quantities != due:
            raise ValueError(
                f"the next record must be that of step {self.next_step} with {sorted(due)}, "
                f"got step {record.step} with {sorted(record.quantities)}"
            )
        body = record.body()
        chain = next_chain(self.chain, body)
        try:
            if self.next_step >= self._reserved_step:
                self._reserve()
            self._disk.write(self._descriptor, memoryview(body + chain))
        except OSError as error:
            raise _cannot_write(RunFailedError, self.path, error) from error
        self.chain = chain
        self.next_step += 1
        return replace(record, chain=chain)

    def sync(self) -> None:
        """Force all records to the device: before a checkpoint that states the chain is committed.  Raises OSError."""
        self._disk.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file.  Does not sync."""
        self._disk.close(self._descriptor)

    def _reserve(self) -> None:
        """Allocate space for the remaining steps, at most RESERVE_RECORDS.  Raises OSError."""
        steps_left = self._n_steps + 1 - self.next_step
        n_records = min(steps_left, RESERVE_RECORDS) if steps_left > 0 else RESERVE_RECORDS
        start = HEADER_BYTES + (self.next_step - self.header.first_step) * RECORD_BYTES
        self._disk.allocate(self._descriptor, start, n_records * RECORD_BYTES)
        self._reserved_step = self.next_step + n_records


def _cannot_write(
    kind: type[RefusedError] | type[RunFailedError], path: Path, error: OSError
) -> RefusedError | RunFailedError:
    """The error for a ledger that cannot be written."""
    return kind(
        f"cannot write the ledger {path}: {error.strerror}",
        hints=["free space on its disk, then run `llmrun resume`"],
    )


def cut_back(path: Path, step: int | None, tail_path: Path, disk: Disk = DISK) -> Path | None:
    """Cut the ledger at `path` after the record of `step`; None: before record 0.

    The records that follow become a ledger at `tail_path`, whose header has their first step and the chain before it.
    A torn last record is dropped.
    Returns `tail_path`, or None if no record followed.
    Raises RefusedError if the ledger is shorter than `step`, or if a record up to it does not fit the chain.
    """
    ledger = LedgerReader(path)
    n_kept = 0 if step is None else step - ledger.first_step + 1
    _check_kept(ledger, step, n_kept)
    n_cut = ledger.n_records - n_kept
    if n_cut:
        first_step = ledger.first_step + n_kept
        chain_before = ledger.chain_at(first_step - 1) if first_step else b""
        header = Header(ledger.header.producer, ledger.header.quantities, first_step, chain_before)
        replace_file(tail_path, [header.to_bytes(), ledger.words[n_kept:].data], disk)
    if n_cut or not ledger.ends_cleanly:
        kept = [ledger.words[:n_kept].data] if n_kept else []
        replace_file(path, [ledger.header.to_bytes(), *kept], disk)
    return tail_path if n_cut else None


def _check_kept(ledger: LedgerReader, step: int | None, n_kept: int) -> None:
    """Check that the records to keep exist and fit the chain.  Raises RefusedError."""
    if n_kept < 0:
        raise RefusedError(
            f"cannot cut the ledger {ledger.path} back to step {step}: it begins after step {ledger.first_step - 1}"
        )
    if ledger.n_records < n_kept:
        raise RefusedError(
            f"the ledger {ledger.path} must reach step {step} of the checkpoint, got step {ledger.last_step}",
            hints=["restore the ledger from a copy, or resume from an older checkpoint: `--from STEP`"],
        )
    if step is not None:
        refuse_broken(ledger, step)


def refuse_broken(ledger: LedgerReader, step: int) -> None:
    """Check that all records up to `step` fit the chain.  Raises RefusedError."""
    broken = ledger.verify_chain()
    if broken is not None and broken <= step:
        raise RefusedError(
            f"record {broken} of the ledger {ledger.path} does not fit its chain: it was damaged or edited",
            hints=["restore the ledger from a copy, or resume from a checkpoint before it: `--from STEP`"],
        )
