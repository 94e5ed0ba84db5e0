"""Tails that were cut off a ledger are never lost, and the longest sound one is audited."""

import signal
import subprocess
import sys

import pytest

from llmrun.launch.select_checkpoint import select_start
from llmrun.storage.ledger.reader import LedgerReader
from llmrun.storage.ledger.record import RECORD_BYTES

KILLED = """
import os, sys
from pathlib import Path
from types import SimpleNamespace
from llmrun.launch.select_checkpoint import select_start
from llmrun.launch.rollback import roll_back
from llmrun.run.directory import RunDirectory
run = RunDirectory(Path(sys.argv[1]))
roll_back(run, select_start(run, int(sys.argv[2]), print), SimpleNamespace(segment=2), print)
os.kill(os.getpid(), 9)
"""


@pytest.fixture
def killed_after_the_cut(interrupted):
    """A run whose resume from step 10 was SIGKILLed between cutting the ledger and writing run.json."""
    done = subprocess.run([sys.executable, "-c", KILLED, interrupted.run.path, "10"], check=False)
    assert done.returncode == -signal.SIGKILL
    assert LedgerReader(interrupted.run.ledger_tail(2)).steps == range(11, 14)
    assert len(interrupted.record.segments) == 1
    return interrupted


def test_the_same_start_again_audits_the_tail_that_is_there(killed_after_the_cut):
    """Nothing is left to cut; the records of the first try prove the recomputed steps."""
    killed_after_the_cut.resume()

    assert killed_after_the_cut.worker_spec(2).audit_tails[0] == "ledger-tail-002.bin"
    assert not killed_after_the_cut.run.ledger_tail(2, 2).exists()


def test_an_earlier_start_keeps_both_tails(killed_after_the_cut):
    """Steps 6 to 10 get a name of their own, steps 11 to 13 stay; the one that begins at the start is audited."""
    killed_after_the_cut.resume(start="5")
    run = killed_after_the_cut.run

    assert LedgerReader(run.ledger_tail(2)).steps == range(11, 14)
    assert run.ledger_tail(2, 2).name == "ledger-tail-002.2.bin"
    assert LedgerReader(run.ledger_tail(2, 2)).steps == range(6, 11)
    assert killed_after_the_cut.worker_spec(2).audit_tails[0] == "ledger-tail-002.2.bin"


def test_the_longest_of_all_is_audited(killed_after_the_cut):
    """A later resume from step 10 finds the longest tail that begins there, whichever segment cut it."""
    killed_after_the_cut.backend.dies_after = 11
    killed_after_the_cut.resume()
    killed_after_the_cut.backend.dies_after = None
    killed_after_the_cut.resume()

    assert LedgerReader(killed_after_the_cut.run.ledger_tail(3)).steps == range(11, 12)
    assert killed_after_the_cut.worker_spec(3).audit_tails[0] == "ledger-tail-002.bin"


def test_a_tail_with_a_flipped_bit_is_passed_over(killed_after_the_cut):
    """It would stop the run for a difference that the run does not have."""
    tail = killed_after_the_cut.run.ledger_tail(2)
    content = bytearray(tail.read_bytes())
    content[-RECORD_BYTES + 20] ^= 1
    tail.write_bytes(content)
    killed_after_the_cut.resume()

    assert killed_after_the_cut.worker_spec(2).audit_tails == []


def test_free_names(interrupted):
    """2, 3, … after the first; a gap is filled before a name is used twice."""
    run = interrupted.run
    assert run.free_ledger_tail(2) == run.ledger_tail(2)
    run.ledger_tail(2).touch()
    run.ledger_tail(2, 2).touch()

    assert run.free_ledger_tail(2).name == "ledger-tail-002.3.bin"
    assert run.ledger_tails(2) == [run.ledger_tail(2), run.ledger_tail(2, 2)]
    assert run.ledger_tails(3) == []
    assert select_start(run, 10, print).step == 10
