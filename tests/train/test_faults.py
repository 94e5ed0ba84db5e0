"""Seeded faults while training: which stop a run, and the error (tests/faults: the findings of `verify`)."""

import shutil
from pathlib import Path

import pytest

from llmrun.errors import RunFailedError
from llmrun.storage.ledger.reader import LedgerReader
from warm.bits import assert_equal_runs
from warm.driver import STEPS
from warm.pool import PoolBackend, dying


@pytest.fixture
def straight(driver, pool):
    """An undisturbed run."""
    driver.train(pool, "straight")
    return driver.run("straight").path


def test_recomputed_steps_that_differ_stop_the_run(driver, server, pool):
    """Recomputed steps are compared with the cut tail: a fault after a resume is found at its step, exit code 4."""
    driver.train(dying(server, 9), "killed")

    ended = driver.resume(PoolBackend(server, "flip_weight_bit", step=6), "killed")

    error = ended.error(driver.run("killed"))
    assert isinstance(error, RunFailedError)
    assert "step 7 was recomputed" in error.message
    assert ended.end.proven_steps == 1


@pytest.mark.parametrize(
    ("gradient", "quantity"),
    [(False, "loss"), (True, "gradient")],
)
@pytest.mark.parametrize("D", [1, 2])
def test_non_finite_stops_before_the_update(driver, server, gradient, quantity, D):
    """Step and micro-batch are named, nothing of that step is recorded or saved."""
    poisoned = PoolBackend(server, "poison", step=3, number=5, gradient=gradient)

    ended = driver.train(poisoned, "poisoned", f"batch.D={D}")

    error = ended.error(driver.run("poisoned"))
    assert isinstance(error, RunFailedError)
    assert error.message.startswith(f"the {quantity} of step 3 ")
    assert "micro-batch 5 " in error.message
    assert LedgerReader(driver.run("poisoned").ledger_file).last_step == 2
    assert list(driver.run("poisoned").checkpoints.glob("step-*")) == []


def test_a_reference_run_is_compared_step_by_step(driver, server, straight):
    """compare_with: auto finds the earlier run of the fingerprint; a difference is a warning at the end."""
    driver.train(PoolBackend(server), "again", "reproducibility.compare_with=auto")
    assert any("same fingerprint" in line for line in driver.said)

    ended = driver.train(
        PoolBackend(server, "flip_weight_bit", step=9), "mutated", "reproducibility.compare_with=auto"
    )

    (warning,) = ended.end.warnings
    assert warning.startswith("step 10 differs in its loss from again, ")
    assert ended.end.why == "finished"
    assert ended.step == STEPS


def test_a_record_that_was_spoiled_before_a_crash_is_outvoted(driver, server, pool):
    """A memory error, then a crash: one resume stops, the next agrees with it, names the wrong tail, and ends equal."""
    driver.train(pool, "straight")
    driver.train(PoolBackend(server, "flip_weight_bit", step=6), "spoiled", until=9)
    run = driver.run("spoiled")
    shutil.rmtree(run.checkpoints / "step-00000009")

    first = driver.resume(pool, "spoiled").error(run)
    second = driver.resume(pool, "spoiled")

    assert first is not None
    assert "step 7 was recomputed" in first.message
    assert second.end.why == "finished"
    assert second.end.proven_steps == 2
    (warning,) = second.end.warnings
    assert warning.startswith("ledger-tail-002.bin is wrong from step 7 on (its loss differs)")
    assert_equal_runs(driver.run("straight"), run, STEPS)


def test_an_error_that_comes_again_elsewhere_still_stops(driver, server):
    """No tail agrees: the run stops each time, however many tails there are."""
    driver.train(PoolBackend(server, "flip_weight_bit", step=6), "spoiled", until=9)
    run = driver.run("spoiled")
    shutil.rmtree(run.checkpoints / "step-00000009")
    for bit in (19, 18):
        ended = driver.resume(PoolBackend(server, "flip_weight_bit", step=6, bit=bit), "spoiled")
        error = ended.error(run)

        assert isinstance(error, RunFailedError)
        assert "step 7 was recomputed" in error.message
        assert ended.end.proven_steps == 1


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"no ledger")])
def test_a_reference_run_that_is_gone_when_the_workers_start_is_a_warning(driver, pool, straight, damage):
    """Between choosing and opening its ledger was removed or damaged: the run continues, with a warning."""

    class Removing(PoolBackend):
        def start(self, job):
            damage(straight / "ledger.bin")
            return super().start(job)

    ended = driver.train(Removing(pool.server), "again", "reproducibility.compare_with=auto")

    assert ended.end.why == "finished"
    (warning,) = ended.end.warnings
    assert str(straight / "ledger.bin") in warning
