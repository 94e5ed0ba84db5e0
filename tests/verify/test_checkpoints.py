"""`verify_runs` where a checkpoint is given by its path."""

import shutil
from pathlib import Path

import pytest

from llmrun.errors import NothingComparedError
from llmrun.storage.checkpoint.errors import CheckpointDamage
from llmrun.storage.ledger.record import RECORD_BYTES
from llmrun.verify.compare_runs import verify_runs


def test_two_checkpoints_are_compared(runs):
    """Equal chains mean equal histories."""
    a, b = runs.make("a"), runs.make("b")
    path = Path("checkpoints/step-00000020")
    verdict = verify_runs(a / path, b / path)

    assert verdict.equal
    assert (verdict.steps_compared, verdict.tensors_compared, verdict.fingerprints.equal) == (20, 9, True)
    c = runs.make("c", alter=runs.from_step(12, lambda state: runs.flip(state.weights["norm.weight"])))
    different = verify_runs(a / path, c / path)
    assert (different.finding.step, different.finding.quantity) == (20, "weights")
    assert different.finding.tensors == ("norm.weight",)
    assert different.steps_compared == 0


def test_checkpoints_of_different_steps_have_nothing_in_common(runs):
    """That is said, with both steps."""
    a = runs.make("a") / "checkpoints"
    with pytest.raises(NothingComparedError, match=r"step 10, .* step 20"):
        verify_runs(a / "step-00000010", a / "step-00000020")


def test_a_checkpoint_is_compared_with_a_runs_ledger(runs):
    """In either order; the ledger's digests tell what differs."""
    a, b = runs.make("a"), runs.make("b", checkpoints=())
    c = runs.make(
        "c", checkpoints=(), alter=runs.from_step(12, lambda s: runs.flip(s.weights["norm.weight"]))
    )
    saved = a / "checkpoints" / "step-00000020"

    assert verify_runs(saved, b).as_json() | {"a": "", "b": ""} == (
        verify_runs(b, saved).as_json() | {"a": "", "b": ""}
    )
    assert (verify_runs(saved, b).equal, verify_runs(saved, b).steps_compared) == (True, 20)
    finding = verify_runs(saved, c).finding
    assert (finding.step, finding.quantity, finding.quantities) == (20, "weights", ("weights",))
    with pytest.raises(
        NothingComparedError, match="A is the state after step 20, the ledger of B holds steps 0 to 14"
    ):
        verify_runs(saved, runs.make("short", last_step=14, checkpoints=()))


def test_the_fingerprint_is_that_of_the_checkpoints_step(runs):
    """A run of two fingerprints has the one that made the step."""
    changed = {"code": {"llmrun/core/step.py": "cc"}}
    saved = runs.make("a") / "checkpoints" / "step-00000020"
    later = {step: runs.make(f"b{step}", checkpoints=(), later=(step, changed)) for step in (19, 20)}

    assert verify_runs(saved, later[19]).fingerprints.parts == ("code",)
    assert verify_runs(saved, later[20]).fingerprints.equal


def test_a_checkpoint_is_not_compared_with_a_damaged_ledger(runs):
    """Damage up to the checkpoint's step counts, what lies behind it does not."""
    a, b = runs.make("a"), runs.make("b", checkpoints=())
    raw = bytearray((b / "ledger.bin").read_bytes())
    raw[4096 + 17 * RECORD_BYTES + 17] ^= 1
    (b / "ledger.bin").write_bytes(raw)
    damaged = verify_runs(b, a / "checkpoints" / "step-00000020")

    assert (damaged.finding.step, damaged.finding.quantity, damaged.steps_compared) == (17, None, 0)
    assert damaged.damage == ("record 17 of the ledger of A does not hold: it was damaged or edited",)
    assert verify_runs(b, a / "checkpoints" / "step-00000010").equal


def test_a_damaged_checkpoint_given_by_its_path_is_named(runs):
    """Before anything is compared."""
    a = runs.make("a") / "checkpoints" / "step-00000020"
    shutil.copytree(a, "copy")
    (Path("copy") / "trainer.json").write_text("{}")
    with pytest.raises(CheckpointDamage, match=r"trainer\.json"):
        verify_runs(a, Path("copy"))
