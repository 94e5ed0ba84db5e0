"""The writer and the reader on real files."""

import errno
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import llmrun.storage.ledger.writer
from llmrun.errors import DamagedError, InputError, RefusedError, RunFailedError
from llmrun.storage.ledger.chain import FORMAT_NAME
from llmrun.storage.ledger.record import RECORD_BYTES, LedgerRecord
from llmrun.storage.ledger.writer import LedgerReader, LedgerWriter

NO_SPACE = OSError(errno.ENOSPC, "No space left on device")


def test_what_was_appended_is_read(ledgers, tmp_path):
    """Every record with its chain, by step, and the chain of the last one."""
    writer = LedgerWriter.create(tmp_path / "ledger.bin", "test", 12)
    written = [writer.append(ledgers.record_of(step)) for step in range(13)]
    writer.sync()
    writer.close()
    reader = LedgerReader(tmp_path / "ledger.bin")

    assert [reader.record(step) for step in reader.steps] == written
    assert (reader.n_records, reader.first_step, reader.last_step) == (13, 0, 12)
    assert reader.chain == writer.chain == reader.chain_at(12) == written[-1].chain
    assert reader.array["loss"][5] == written[5].loss
    assert reader.verify_chain() is None
    assert reader.ends_cleanly
    assert reader.header.producer == "test"
    with pytest.raises(IndexError, match="no record of step 13"):
        reader.record(13)


def test_an_empty_ledger_has_no_last_step(tmp_path):
    """Reserved room is no record."""
    LedgerWriter.create(tmp_path / "ledger.bin", "test", 100).close()
    reader = LedgerReader(tmp_path / "ledger.bin")

    assert (reader.n_records, reader.last_step, list(reader.steps)) == (0, -1, [])
    assert reader.chain == FORMAT_NAME
    assert reader.verify_chain() is None
    assert len(reader.array) == 0


def test_room_is_reserved_at_the_start(tmp_path):
    """The file has its full size before the first record."""
    path = tmp_path / "ledger.bin"
    LedgerWriter.create(path, "test", 999).close()

    assert path.stat().st_size == 4096 + 1000 * RECORD_BYTES
    assert path.stat().st_blocks * 512 >= path.stat().st_size


def test_more_room_is_reserved_when_it_is_used_up(ledgers, tmp_path, monkeypatch):
    """In steps of a fixed number of records, past the horizon too."""
    monkeypatch.setattr(llmrun.storage.ledger.writer, "RESERVE_RECORDS", 8)
    path = tmp_path / "ledger.bin"
    writer = LedgerWriter.create(path, "test", 17)
    sizes = []
    for step in range(30):
        writer.append(ledgers.record_of(step))
        sizes.append((path.stat().st_size - 4096) // RECORD_BYTES)
    writer.close()

    assert sizes == [8] * 8 + [16] * 8 + [18] * 2 + [26] * 8 + [34] * 4
    assert LedgerReader(path).last_step == 29


def test_a_full_disk_at_the_start_is_refused_and_leaves_nothing(ledgers, tmp_path):
    """Whichever operation fails, there is no ledger and no temporary file."""
    for fails_at in range(5):
        with pytest.raises(RefusedError, match="No space left on device"):
            LedgerWriter.create(
                tmp_path / "ledger.bin", "test", 10, disk=ledgers.FullDisk(fails_at, NO_SPACE)
            )
        assert list(tmp_path.iterdir()) == []


def test_a_full_disk_while_training_is_met_between_two_steps(ledgers, tmp_path, monkeypatch):
    """The records before it stay whole, the run can be resumed."""
    monkeypatch.setattr(llmrun.storage.ledger.writer, "RESERVE_RECORDS", 8)
    path = tmp_path / "ledger.bin"
    # create, write, allocate, fsync, rename, fsync_directory, then 8 records, then the next allocation.
    writer = LedgerWriter.create(path, "test", 100, disk=ledgers.FullDisk(6 + 8, NO_SPACE))
    for step in range(8):
        writer.append(ledgers.record_of(step))
    with pytest.raises(RunFailedError, match="No space left") as caught:
        writer.append(ledgers.record_of(8))
    reader = LedgerReader(path)

    assert reader.last_step == 7
    assert reader.ends_cleanly
    assert any("`llmrun resume`" in hint for hint in caught.value.hints)


def test_a_ledger_goes_on_where_it_ended(ledgers, tmp_path):
    """Closed and resumed, it has the bytes of one that was never closed."""
    straight = ledgers.write(tmp_path / "straight.bin", 25)
    path = ledgers.write(tmp_path / "ledger.bin", 9)
    writer = LedgerWriter.resume(path, 9, 25)
    assert path.stat().st_size == straight.stat().st_size
    for step in range(10, 26):
        writer.append(ledgers.record_of(step))
    writer.close()

    assert path.read_bytes() == straight.read_bytes()


def test_a_ledger_without_a_record_goes_on_at_record_0(ledgers, tmp_path):
    """A run that died before its first record starts again in the same file."""
    path = tmp_path / "ledger.bin"
    LedgerWriter.create(path, "test", 3).close()
    writer = LedgerWriter.resume(path, None, 3)
    for step in range(4):
        writer.append(ledgers.record_of(step))
    writer.close()

    assert path.read_bytes() == ledgers.write(tmp_path / "straight.bin", 3).read_bytes()


def test_a_ledger_that_ends_elsewhere_is_not_resumed(ledgers, tmp_path):
    """Too short or too long: both are named with their steps."""
    path = ledgers.write(tmp_path / "ledger.bin", 9)
    for step in (8, 10, None):
        with pytest.raises(RefusedError, match="got step 9"):
            LedgerWriter.resume(path, step, 20)
    path.write_bytes(path.read_bytes() + b"torn")
    with pytest.raises(RefusedError, match="a torn record follows step 9"):
        LedgerWriter.resume(path, 9, 20)


@pytest.mark.parametrize(
    "change",
    [
        lambda r: replace(r, step=r.step + 1),
        lambda r: replace(r, loss=None),
        lambda r: replace(r, optimizer_digest=5),
    ],
)
def test_only_the_next_record_with_what_is_due_is_taken(ledgers, tmp_path, change):
    """So that chains of any two trainers are comparable."""
    writer = LedgerWriter.create(tmp_path / "ledger.bin", "test", 5)
    writer.append(ledgers.record_of(0))
    with pytest.raises(ValueError, match="the next record must be that of step 1 "):
        writer.append(change(ledgers.record_of(1)))
    writer.append(ledgers.record_of(1))
    writer.close()


def test_another_trainer_may_record_less(tmp_path):
    """What its header does not name is absent, not zero."""
    path = tmp_path / "ledger.bin"
    writer = LedgerWriter.create(path, "other 2.0", 2, quantities={"step", "loss", "weights_digest"})
    writer.append(LedgerRecord(0, weights_digest=1))
    writer.append(LedgerRecord(1, loss=0.0, weights_digest=2))
    writer.close()
    reader = LedgerReader(path)

    assert reader.header.quantities == {"step", "loss", "weights_digest"}
    assert reader.record(1).loss == 0.0
    assert reader.record(1).gradients_digest is None


def test_a_ledger_is_never_replaced(ledgers, tmp_path):
    """Creating one over another is an error."""
    path = ledgers.write(tmp_path / "ledger.bin", 3)
    with pytest.raises(FileExistsError):
        LedgerWriter.create(path, "test", 3)


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (b"", DamagedError, "is not a ledger"),
        (b"\0" * 5000, DamagedError, "is not a ledger"),
        (b"llmrun-ledger/1\n{}", DamagedError, "is not a ledger"),
        (
            b"llmrun-ledger/2\n".ljust(5000),
            InputError,
            "llmrun-ledger/2",
        ),
        (b"llmrun-ledger/1\nnot json".ljust(4096), DamagedError, "the header of .* is damaged"),
        (b"llmrun-ledger/1\n[1]".ljust(4096), DamagedError, "the header of .* is damaged"),
        (b'llmrun-ledger/1\n{"header_bytes": 4096}'.ljust(4096), DamagedError, "the header of .* is damaged"),
    ],
)
def test_a_file_without_a_sound_header_is_refused(tmp_path, content, kind, message):
    """With its name, and another version with what this one reads."""
    path = tmp_path / "ledger.bin"
    path.write_bytes(content)
    with pytest.raises(kind, match=message):
        LedgerReader(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("record_bytes", 120),
        ("first_step", -1),
        ("first_step", "0"),
        ("chain_before", "ab"),
        ("chain_before", "zz"),
        ("quantities", ["step", "speed"]),
        ("quantities", None),
    ],
)
def test_each_field_of_the_header_is_checked(ledgers, tmp_path, name, value):
    """A header that says what cannot be is damage."""
    path = ledgers.write(tmp_path / "ledger.bin", 3)
    raw = path.read_bytes()
    fields = json.loads(raw[16:4096]) | {name: value}
    path.write_bytes((b"llmrun-ledger/1\n" + json.dumps(fields).encode()).ljust(4096) + raw[4096:])
    with pytest.raises(DamagedError, match=r"the header of .* is damaged"):
        LedgerReader(path)


def test_a_producer_that_does_not_fit_is_refused(tmp_path):
    """The header has 4,096 bytes."""
    with pytest.raises(ValueError, match="producer"):
        LedgerWriter.create(tmp_path / "ledger.bin", "x" * 5000, 3)
    with pytest.raises(ValueError, match="speed"):
        LedgerWriter.create(tmp_path / "ledger.bin", "x", 3, quantities={"step", "speed"})


def test_the_package_needs_no_torch():
    """Another trainer can write and compare ledgers with it."""
    package = Path(llmrun.storage.ledger.writer.__file__).parent
    modules = [path.stem for path in package.glob("*.py") if path.stem != "__init__"]
    imports = "; ".join(f"import llmrun.storage.ledger.{name}" for name in modules)
    code = f"import sys; {imports}; print([m for m in sys.modules if m in ('torch', 'llmrun.runtime')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"
