"""Cutting a ledger back to a checkpoint's step: nothing is lost, whenever the process dies."""

import os

import pytest

from llmrun.errors import RefusedError
from llmrun.storage.ledger.record import RECORD_BYTES
from llmrun.storage.ledger.writer import LedgerReader, LedgerWriter, cut_back


@pytest.fixture
def path(ledgers, tmp_path):
    """A ledger of the steps 0 to 25."""
    return ledgers.write(tmp_path / "ledger.bin", 25)


def test_the_tail_is_kept_aside(ledgers, path, tmp_path):
    """The ledger ends at the checkpoint, the tail is a ledger of its own with its first step."""
    whole = LedgerReader(path)
    tail_path = cut_back(path, 20, tmp_path / "ledger-tail-2.bin")
    kept, tail = LedgerReader(path), LedgerReader(tail_path)

    assert (kept.last_step, kept.ends_cleanly, kept.chain) == (20, True, whole.chain_at(20))
    assert (tail.first_step, tail.last_step, tail.ends_cleanly) == (21, 25, True)
    assert [tail.record(step) for step in tail.steps] == [whole.record(step) for step in range(21, 26)]
    assert tail.verify_chain() is None
    assert tail.header.chain_before == whole.chain_at(20)
    assert tail.header.producer == "test"


def test_the_cut_ledger_goes_on_as_if_nothing_had_happened(ledgers, path, tmp_path):
    """Resumed and recomputed, it has the bytes of one that was never cut."""
    straight = path.read_bytes()
    cut_back(path, 20, tmp_path / "tail.bin")
    writer = LedgerWriter.resume(path, 20, 25)
    for step in range(21, 26):
        writer.append(ledgers.record_of(step))
    writer.close()

    assert path.read_bytes() == straight


def test_nothing_is_kept_where_there_is_no_checkpoint(path, tmp_path):
    """The run starts again at record 0; even that one is in the tail, to be proven."""
    whole = path.read_bytes()
    tail = LedgerReader(cut_back(path, None, tmp_path / "tail.bin"))

    assert (tail.first_step, tail.last_step, tail.verify_chain()) == (0, 25, None)
    assert LedgerReader(path).n_records == 0
    assert LedgerReader(path).header == tail.header
    assert (tmp_path / "tail.bin").read_bytes() == whole


def test_a_ledger_that_ends_there_is_left_alone(path, tmp_path):
    """No tail is written, not a byte is changed."""
    before = (path.read_bytes(), path.stat().st_ino)

    assert cut_back(path, 25, tmp_path / "tail.bin") is None
    assert (path.read_bytes(), path.stat().st_ino) == before
    assert [p.name for p in tmp_path.iterdir()] == ["ledger.bin"]


def test_a_torn_record_belongs_to_neither(path, tmp_path):
    """What an interrupted writer left behind is dropped, also where no whole record follows."""
    raw = path.read_bytes()
    path.write_bytes(raw[:-40] + bytes(40))
    tail = LedgerReader(cut_back(path, 20, tmp_path / "tail.bin"))
    assert (tail.first_step, tail.last_step) == (21, 24)

    path.write_bytes(raw[:-40] + bytes(40))
    assert cut_back(path, 24, tmp_path / "none.bin") is None
    assert path.read_bytes() == raw[:-RECORD_BYTES]


def test_a_ledger_shorter_than_its_checkpoint_is_refused(path, tmp_path):
    """It is named, with both steps, and stays as it is."""
    before = path.read_bytes()
    with pytest.raises(RefusedError) as caught:
        cut_back(path, 30, tmp_path / "tail.bin")

    assert all(part in caught.value.message for part in (str(path), "step 30", "step 25"))
    assert path.read_bytes() == before


def test_a_ledger_that_was_edited_is_refused(path, tmp_path):
    """Up to the checkpoint every record must fit its chain; after it no record is trusted anyway."""
    raw = bytearray(path.read_bytes())
    raw[4096 + 18 * RECORD_BYTES + 17] ^= 1
    path.write_bytes(raw)
    for step in (18, 20):
        with pytest.raises(RefusedError, match="record 18 of the ledger"):
            cut_back(path, step, tmp_path / "tail.bin")

    assert cut_back(path, 17, tmp_path / "tail.bin") is not None


def test_a_cut_is_safe_at_every_operation(ledgers, path, tmp_path):
    """Killed at any operation on the disk, every record is in the ledger or the tail; a second cut ends the work."""
    original = path.read_bytes()
    records = {step: LedgerReader(path).record(step) for step in range(26)}
    n_operations = 0
    while True:
        folder = tmp_path / str(n_operations)
        folder.mkdir()
        ledger, tail = folder / "ledger.bin", folder / "tail.bin"
        ledger.write_bytes(original)
        killed = _cut_and_die(ledgers, ledger, tail, n_operations)

        found = [LedgerReader(file) for file in (ledger, tail) if file.exists()]
        assert {step: one.record(step) for one in found for step in one.steps} == records
        cut_back(ledger, 20, tail)
        assert LedgerReader(ledger).steps == range(21)
        assert LedgerReader(tail).steps == range(21, 26)
        assert LedgerReader(ledger).verify_chain() is LedgerReader(tail).verify_chain() is None
        if not killed:
            break
        n_operations += 1

    assert n_operations == 12


def _cut_and_die(ledgers, ledger, tail, operation):
    """Cut in a process that ends without cleaning up at its `operation`-th operation; False if it reaches its end."""

    class Death(ledgers.FullDisk):
        def _count(self) -> None:
            self.calls += 1
            if self.calls - 1 == self.fails_at:
                os._exit(9)

    child = os.fork()
    if child == 0:
        cut_back(ledger, 20, tail, Death(operation, RuntimeError()))
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def test_a_reader_survives_the_cut(path, tmp_path):
    """What another process has mapped stays readable."""
    reader = LedgerReader(path)
    last = reader.record(25)
    cut_back(path, 3, tmp_path / "tail.bin")

    assert reader.record(25) == last
    assert reader.verify_chain() is None


def test_a_ledger_that_begins_later_is_cut_like_any_other(ledgers, tmp_path):
    """That of a migrated run: cut to its beginning it is as it was made, and goes on to the same bytes."""
    path = tmp_path / "ledger.bin"
    writer = LedgerWriter.create(path, "test", 25, after=(6, b"c" * 32))
    for step in range(7, 13):
        writer.append(ledgers.record_of(step))
    writer.close()
    straight = LedgerReader(path).chain
    tail = LedgerReader(cut_back(path, 6, tmp_path / "tail.bin"))
    kept = LedgerReader(path)

    assert (kept.steps, kept.last_step, kept.chain, kept.chain_at(6)) == (
        range(7, 7),
        6,
        b"c" * 32,
        b"c" * 32,
    )
    assert (tail.steps, tail.verify_chain()) == (range(7, 13), None)
    writer = LedgerWriter.resume(path, 6, 25)
    for step in range(7, 13):
        writer.append(ledgers.record_of(step))
    writer.close()
    assert LedgerReader(path).chain == straight
    with pytest.raises(RefusedError, match="back to step 3: it begins after step 6"):
        cut_back(path, 3, tmp_path / "other.bin")
