"""An earlier run of the same fingerprint that can be compared with, or none."""

import pytest

from llmrun.ledger.record import RECORD_BYTES


def flip(path):
    """Flip one bit in the last record."""
    content = bytearray(path.read_bytes())
    content[path.stat().st_size // 16 * 16 - RECORD_BYTES + 20] ^= 1
    path.write_bytes(content)


DAMAGES = [
    pytest.param(lambda ledger: ledger.unlink(), id="missing"),
    pytest.param(lambda ledger: ledger.write_bytes(b""), id="empty"),
    pytest.param(lambda ledger: ledger.write_bytes(b"llmrun-ledger/9\n" + b" " * 5000), id="another version"),
    pytest.param(lambda ledger: ledger.write_bytes(ledger.read_bytes()[:4096]), id="no record"),
    pytest.param(flip, id="a flipped bit"),
    pytest.param(lambda ledger: (ledger.unlink(), ledger.mkdir()), id="a directory"),
]


def twin_of_a_new_run(project):
    """What the workers of a further run would be told."""
    prepared = project.prepare(identity="new")
    prepared.lock.release()
    return prepared.orders.twin_ledger


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_twin_whose_ledger_does_not_hold_is_passed_over(project, damage):
    """The run that went less far is taken instead; what lies in another run's directory fails no run."""
    project.train(identity="short", until=10)
    project.train(identity="long")
    damage(project.path / "runs" / "long" / "ledger.bin")

    assert twin_of_a_new_run(project) == str(project.path / "runs" / "short" / "ledger.bin")


def test_the_one_that_went_furthest_is_taken(project):
    """Without damage it is the long one."""
    project.train(identity="short", until=10)
    project.train(identity="long")

    assert twin_of_a_new_run(project) == str(project.path / "runs" / "long" / "ledger.bin")


def test_none_at_all(project):
    """With only damaged ones there is nothing to compare with."""
    project.train(identity="only")
    flip(project.path / "runs" / "only" / "ledger.bin")

    assert twin_of_a_new_run(project) is None
