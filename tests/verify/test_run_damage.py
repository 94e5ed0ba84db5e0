"""`verify_runs` where something is damaged or was edited: it is named, and never taken for a difference."""

import json
import shutil

import pytest

from llmrun.errors import DamagedError
from llmrun.storage.ledger.record import RECORD_BYTES
from llmrun.storage.ledger.writer import cut_back
from llmrun.verify.compare_runs import verify_runs


def test_a_ledger_that_was_edited_is_damage(runs):
    """The first bad step is named; what lies before it was still compared."""
    a, b = runs.make("a"), runs.make("b")
    raw = bytearray((b / "ledger.bin").read_bytes())
    raw[4096 + 17 * RECORD_BYTES + 17] ^= 1
    (b / "ledger.bin").write_bytes(raw)
    verdict = verify_runs(a, b)

    assert (verdict.equal, verdict.steps_compared, verdict.complete) == (False, 16, False)
    assert (verdict.finding.step, verdict.finding.quantity) == (17, None)
    assert verdict.damage == ("record 17 of the ledger of B does not hold: it was damaged or edited",)


@pytest.mark.parametrize(("in_a", "in_b"), [(17, 12), (12, 17), (12, 12), (None, 12), (12, None)])
def test_damage_in_both_ledgers_is_told_of_both(runs, in_a, in_b):
    """Also where the other one has the same damage, or a later one."""
    made = {}
    for name, step in (("a", in_a), ("b", in_b)):
        made[name] = runs.make(name, checkpoints=())
        raw = bytearray((made[name] / "ledger.bin").read_bytes())
        if step is not None:
            raw[4096 + step * RECORD_BYTES + 17] ^= 1
        (made[name] / "ledger.bin").write_bytes(raw)
    verdict = verify_runs(made["a"], made["b"])

    assert verdict.damage == tuple(
        f"record {step} of the ledger of {label} does not hold: it was damaged or edited"
        for label, step in (("A", in_a), ("B", in_b))
        if step is not None
    )
    assert (verdict.finding.step, verdict.steps_compared) == (12, 11)


def test_a_torn_end_is_left_out_and_said(runs):
    """A run that was killed by a power cut is still comparable."""
    a, b = runs.make("a"), runs.make("b", status="running")
    raw = (b / "ledger.bin").read_bytes()
    (b / "ledger.bin").write_bytes(raw[:-48] + bytes(48))
    verdict = verify_runs(a, b)

    assert (verdict.equal, verdict.steps_compared, verdict.complete) == (True, 23, False)
    assert verdict.notes == (
        "the ledger of B ends within the record of step 24, which is left out",
        "B is still running, or was killed",
    )


def test_a_checkpoint_with_a_flipped_bit_is_damage(runs):
    """The file is named."""
    a, b = runs.make("a"), runs.make("b")
    file = b / "checkpoints" / "step-00000020" / "model-00001-of-00001.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    verdict = verify_runs(a, b)

    assert verdict.damage == (
        "checkpoint step-00000020/model-00001-of-00001.safetensors has another sha256 than SHA256SUMS states (B)",
    )
    assert (verdict.finding.step, verdict.finding.quantity) == (None, None)
    assert verdict.checkpoints == (10,)


def test_a_checkpoint_of_another_run_is_damage(runs):
    """Whole and sound, but not the state that this run's ledger recorded."""
    a = runs.make("a")
    other = runs.make("other", alter=lambda state: runs.flip(state.weights["norm.weight"]))
    shutil.rmtree(a / "checkpoints" / "step-00000020")
    shutil.copytree(other / "checkpoints" / "step-00000020", a / "checkpoints" / "step-00000020")
    verdict = verify_runs(a, runs.make("b", checkpoints=(10,)))

    assert verdict.damage == (
        "checkpoint step-00000020 of A is not the state that its ledger recorded: weights, chain",
    )


def test_a_ledger_shorter_than_its_checkpoint_is_damage(runs):
    """It lost what it had before the checkpoint was committed."""
    a, b = runs.make("a"), runs.make("b")
    cut_back(b / "ledger.bin", 15, b / "tail.bin")
    verdict = verify_runs(a, b)

    assert verdict.damage == ("the ledger of B ends at step 15, before its checkpoint step-00000020",)


def test_an_edited_fingerprint_is_damage(runs):
    """The preimages tell."""
    a, b = runs.make("a"), runs.make("b")
    document = json.loads((b / "run.json").read_text())
    document["fingerprint"]["preimages"]["config"]["seed"] = 43
    (b / "run.json").write_text(json.dumps(document))

    assert "run.json of B contradicts itself" in verify_runs(a, b).damage[0]


def test_a_damaged_header_is_damage(runs):
    """Nothing can be compared then."""
    a, b = runs.make("a"), runs.make("b")
    (b / "ledger.bin").write_bytes(b"llmrun-ledger/1\n".ljust(6000, b"x"))
    with pytest.raises(DamagedError, match=r"the header of runs/b/ledger\.bin is damaged"):
        verify_runs(a, b)


def test_damaged_digests_of_tensors_do_not_hide_the_difference(runs):
    """They only help to name tensors."""
    a = runs.make("a")
    b = runs.make("b", alter=lambda state: runs.flip(state.weights["norm.weight"]), checkpoints=())
    (b / "ledger-tensors" / "step-00000000.json").write_text("{")
    finding = verify_runs(a, b).finding

    assert (finding.step, finding.quantity, finding.tensors, finding.tensors_step) == (0, "weights", (), None)
