"""Small ledgers with records drawn from their step."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from llmrun.storage.durable import Disk
from llmrun.storage.ledger.record import LedgerRecord, quantities_due
from llmrun.storage.ledger.writer import LedgerWriter

Change = Callable[[LedgerRecord], LedgerRecord]


def record_of(step: int) -> LedgerRecord:
    """A record with all that is due at `step`."""
    full = LedgerRecord(
        step=step,
        tokens=1024 * step,
        loss=6.0 / (1 + step),
        grad_norm=1.5 + step,
        learning_rate=1e-3 / (1 + step),
        tokens_digest=11 * step + 2**63,
        gradients_digest=13 * step + 1,
        weights_digest=17 * step + 2**64 - 10_000,
        optimizer_digest=19 * step + 3,
    )
    absent = full.quantities - quantities_due(step)
    return replace(full, **dict.fromkeys(absent))


def write_ledger(path: Path, last_step: int, change: Change = lambda record: record) -> Path:
    """A ledger of the steps 0 to `last_step`, each record passed through `change`."""
    writer = LedgerWriter.create(path, "test", last_step)
    for step in range(last_step + 1):
        writer.append(change(record_of(step)))
    writer.close()
    return path


class FullDisk(Disk):
    """A disk on which one operation, counted from 0 over all kinds, fails."""

    def __init__(self, fails_at: int, error: Exception) -> None:
        self.fails_at, self.error, self.calls = fails_at, error, 0

    def _count(self) -> None:
        self.calls += 1
        if self.calls - 1 == self.fails_at:
            raise self.error

    def create(self, path: Path) -> int:
        """Make a file, or fail."""
        self._count()
        return super().create(path)

    def write(self, descriptor: int, block: memoryview) -> None:
        """Write all, or half and fail."""
        if self.calls == self.fails_at:
            super().write(descriptor, block[: len(block) // 2])
        self._count()
        super().write(descriptor, block)

    def fsync(self, descriptor: int) -> None:
        """Force a file to disk, or fail."""
        self._count()
        super().fsync(descriptor)

    def rename(self, old: Path, new: Path) -> None:
        """Rename, or fail."""
        self._count()
        super().rename(old, new)

    def fsync_directory(self, path: Path) -> None:
        """Force names to disk, or fail."""
        self._count()
        super().fsync_directory(path)

    def allocate(self, descriptor: int, start: int, n_bytes: int) -> None:
        """Reserve room, or fail."""
        self._count()
        super().allocate(descriptor, start, n_bytes)


@pytest.fixture
def ledgers() -> SimpleNamespace:
    """Ways to make ledgers."""
    return SimpleNamespace(record_of=record_of, write=write_ledger, FullDisk=FullDisk)
