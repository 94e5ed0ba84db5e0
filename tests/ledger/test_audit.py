"""Steps that are computed again are held against what was recorded before."""

from dataclasses import replace

import pytest

from llmrun.storage.ledger.compare import Audit
from llmrun.storage.ledger.writer import LedgerReader, cut_back


@pytest.fixture
def tail(ledgers, tmp_path):
    """The steps 21 to 25, cut off."""
    path = ledgers.write(tmp_path / "ledger.bin", 25)
    return LedgerReader(cut_back(path, 20, tmp_path / "tail.bin"))


def test_equal_steps_are_counted(ledgers, tail):
    """All steps of the tail are proven; what comes after them is not."""
    audit = Audit(tail)
    found = [audit.check(ledgers.record_of(step)) for step in range(21, 30)]

    assert found == [None] * 9
    assert (audit.proven_steps, audit.last_step) == (5, 25)


@pytest.mark.parametrize("step", [21, 23])
def test_the_first_difference_is_returned(ledgers, tail, step):
    """With step, quantity, both records, and that the weights before it were equal."""
    audit = Audit(tail)
    for equal in range(21, step):
        assert audit.check(ledgers.record_of(equal)) is None
    new = replace(ledgers.record_of(step), loss=1.25)
    found = audit.check(new)

    assert (found.step, found.quantity, found.b) == (step, "loss", new)
    assert found.a == tail.record(step)
    assert found.weights_before_equal
    assert audit.proven_steps == step - 21


def test_record_0_is_compared_but_is_no_step(ledgers, tmp_path):
    """A twin's initial weights count as equal or not, never as a proven step."""
    reference_run = LedgerReader(ledgers.write(tmp_path / "ledger.bin", 3))
    audit = Audit(reference_run)

    assert audit.check(ledgers.record_of(0)) is None
    assert audit.proven_steps == 0
    assert Audit(reference_run).check(replace(ledgers.record_of(0), weights_digest=1)).quantity == "weights"
