"""Seeded faults while training: what `verify` names, and what stops a run."""

import pytest

from llmrun.errors import RunFailedError
from llmrun.ledger.reader import LedgerReader
from llmrun.verify.runs import verify_runs
from warm.driver import STEPS
from warm.pool import PoolStarter, dying


@pytest.fixture
def straight(driver, pool):
    """An undisturbed run."""
    driver.train(pool, "straight")
    return driver.run("straight").path


FAULTS = [
    ("skip_sample", 7, 7, "data"),
    ("reseed_dropout", 6, 6, "loss"),
    ("flip_weight_bit", 9, 10, "loss"),
    ("zero_moments", 11, 12, "weights"),
]


@pytest.mark.parametrize(
    ("mutation", "step", "expected_step", "quantity"), FAULTS, ids=[f[0] for f in FAULTS]
)
def test_verify_names_the_first_divergence(driver, server, straight, mutation, step, expected_step, quantity):
    """A skipped sample is data, reseeded dropout loss, a flipped weight the next loss, lost moments weights."""
    driver.train(PoolStarter(server, mutation, step=step), "mutated")

    verdict = verify_runs(straight, driver.run("mutated").path).as_json()

    assert verdict["equal"] is False
    assert (verdict["first_step"], verdict["quantity"]) == (expected_step, quantity)


def test_a_flipped_bit_is_told_from_dropout(driver, server, straight):
    """The remark says that the state changed between two steps."""
    driver.train(PoolStarter(server, "flip_weight_bit", step=9), "mutated")
    verdict = verify_runs(straight, driver.run("mutated").path).as_json()
    assert "between steps" in verdict["diagnosis"]


def test_recomputed_steps_that_differ_stop_the_run(driver, server, pool):
    """The kept tail is an audit: a fault after a resume is found at its step, exit code 4."""
    driver.train(dying(server, 9), "killed")

    ended = driver.resume(PoolStarter(server, "flip_weight_bit", step=6), "killed")

    error = ended.error(driver.run("killed"))
    assert isinstance(error, RunFailedError)
    assert "step 7 was recomputed and differs" in error.says
    assert ended.end.proven_steps == 1


@pytest.mark.parametrize(
    ("gradient", "says"),
    [
        (False, "the loss of step 3 is nan, first in micro-batch 5 of 0 … 7"),
        (True, "the gradient of step 3 is nan, first in micro-batch 5 of 0 … 7"),
    ],
)
@pytest.mark.parametrize("D", [1, 2])
def test_non_finite_stops_before_the_update(driver, server, gradient, says, D):
    """Step and micro-batch are named, nothing of that step is recorded or saved."""
    poisoned = PoolStarter(server, "poison", step=3, number=5, gradient=gradient)

    ended = driver.train(poisoned, "poisoned", f"batch.D={D}")

    error = ended.error(driver.run("poisoned"))
    assert isinstance(error, RunFailedError)
    assert error.says.replace("inf", "nan") == says
    assert LedgerReader(driver.run("poisoned").ledger_file).last_step == 2
    assert list(driver.run("poisoned").checkpoints.glob("step-*")) == []


def test_a_twin_is_compared_as_it_goes(driver, server, straight):
    """compare_with: auto finds the earlier run of the fingerprint; a difference is told at the end."""
    driver.train(PoolStarter(server), "again", "reproducibility.compare_with=auto")
    assert any("same fingerprint" in line for line in driver.said)

    ended = driver.train(
        PoolStarter(server, "flip_weight_bit", step=9), "mutated", "reproducibility.compare_with=auto"
    )

    assert any("step 10 differs from an earlier run" in remark for remark in ended.end.remarks)
    assert ended.end.why == "finished"
    assert ended.step == STEPS
