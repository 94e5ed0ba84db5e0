"""Where a ledger ends: torn by a power cut, edited by hand, or growing while it is read."""

import os
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmrun.storage.ledger.record import RECORD_BYTES
from llmrun.storage.ledger.writer import LedgerReader

HEADER = 4096


def test_every_tear_of_the_last_record_is_seen(ledgers, tmp_path):
    """Whichever multiple of 16 bytes of it reached the disk, the record is left out and named."""
    path = ledgers.write(tmp_path / "ledger.bin", 12)
    raw = path.read_bytes()
    start = HEADER + 12 * RECORD_BYTES
    for kept in range(16, RECORD_BYTES, 16):
        path.write_bytes(raw[: start + kept].ljust(len(raw) + 5 * RECORD_BYTES, b"\0"))
        reader = LedgerReader(path)
        assert (reader.last_step, reader.torn_step, reader.verify_chain()) == (11, 12, None)
        path.write_bytes(raw[: start + kept])
        assert LedgerReader(path).torn_step == 12


def test_a_lost_beginning_of_the_last_record_is_a_tear(ledgers, tmp_path):
    """The sector before it may be the one that did not reach the disk."""
    path = ledgers.write(tmp_path / "ledger.bin", 12)
    raw = bytearray(path.read_bytes())
    start = HEADER + 12 * RECORD_BYTES
    for lost in range(16, RECORD_BYTES, 16):
        raw[start : start + lost] = bytes(lost)
        path.write_bytes(raw)
        reader = LedgerReader(path)
        assert (reader.last_step, reader.torn_step, reader.verify_chain()) == (11, 12, None)


def test_a_whole_record_0_is_no_tear(ledgers, tmp_path):
    """It begins with zeros: step 0, and no tokens."""
    reader = LedgerReader(ledgers.write(tmp_path / "ledger.bin", 0))

    assert (reader.n_records, reader.torn_step) == (1, None)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(at=st.integers(0, 31 * RECORD_BYTES - 1), bit=st.integers(0, 7))
def test_any_flipped_bit_is_found_at_its_step(ledgers, tmp_path_factory, at, bit):
    """In a record's values, in its chain, in its step: the first bad step is named."""
    path = ledgers.write(tmp_path_factory.mktemp("l") / "ledger.bin", 30)
    raw = bytearray(path.read_bytes())
    raw[HEADER + at] ^= 1 << bit
    path.write_bytes(raw)

    assert LedgerReader(path).verify_chain() == at // RECORD_BYTES


def test_a_hole_in_the_middle_is_damage(ledgers, tmp_path):
    """More follows than an interrupted writer leaves behind."""
    path = ledgers.write(tmp_path / "ledger.bin", 30)
    raw = bytearray(path.read_bytes())
    raw[HEADER + 10 * RECORD_BYTES : HEADER + 12 * RECORD_BYTES] = bytes(2 * RECORD_BYTES)
    path.write_bytes(raw)
    reader = LedgerReader(path)

    assert (reader.last_step, reader.torn_step, reader.verify_chain()) == (9, None, 10)
    assert not reader.ends_cleanly


def test_the_chain_can_be_verified_from_a_step_on(ledgers, tmp_path):
    """What lies before is taken as sound."""
    path = ledgers.write(tmp_path / "ledger.bin", 30)
    raw = bytearray(path.read_bytes())
    raw[HEADER + 10 * RECORD_BYTES + 20] ^= 1
    path.write_bytes(raw)
    reader = LedgerReader(path)

    assert [reader.verify_chain(start) for start in (None, 0, 10, 11, 31)] == [10, 10, 10, None, None]


WRITE_FOREVER = """
import sys
from pathlib import Path
from llmrun.storage.ledger.writer import LedgerWriter
from llmrun.storage.ledger.record import LedgerRecord, quantities_due
writer = LedgerWriter.create(Path(sys.argv[1]), "test", 200_000)
for step in range(200_000):
    values = dict.fromkeys(quantities_due(step) - {"step"}, 1 + step)
    writer.append(LedgerRecord(step, **values))
    if step == 100:
        print("go", flush=True)
"""


def test_a_growing_ledger_is_always_sound(tmp_path):
    """Read again and again while another process appends at full speed; then that process is killed."""
    path = tmp_path / "ledger.bin"
    with subprocess.Popen(
        [sys.executable, "-c", WRITE_FOREVER, str(path)], stdout=subprocess.PIPE, env={**os.environ}
    ) as writer:
        assert writer.stdout.readline() == b"go\n"
        lengths = []
        while len(lengths) < 60 and writer.poll() is None:
            reader = LedgerReader(path)
            lengths.append(reader.n_records)
            assert reader.verify_chain(reader.last_step - 50) is None
        writer.kill()
    reader = LedgerReader(path)

    assert lengths == sorted(lengths)
    assert reader.n_records >= lengths[-1] > 100
    assert reader.verify_chain() is None


@pytest.mark.parametrize("extra", [b"x", b"\0" * 50 + b"x"])
def test_a_stray_end_is_a_tear(ledgers, tmp_path, extra):
    """A part of a record at the end of a copy that was cut short."""
    path = ledgers.write(tmp_path / "ledger.bin", 5)
    path.write_bytes(path.read_bytes() + extra)
    reader = LedgerReader(path)

    assert (reader.last_step, reader.torn_step) == (5, 6)
