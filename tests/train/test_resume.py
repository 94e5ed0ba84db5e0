"""A run that was killed and resumed has the bits of one that never stopped."""

import signal
from itertools import product

import pytest

from llmrun.errors import LlmrunError
from llmrun.launch.torchrun import TorchrunBackend
from llmrun.storage.ledger.reader import LedgerReader
from warm.bits import assert_equal_runs, chain_of
from warm.driver import STEPS
from warm.pool import PoolBackend, dying

QUICK = {(1, 2, "fp32"), (2, 0, "bf16")}
"""The cells of `make test`; the others are slow."""
CELLS = [
    pytest.param(*cell, marks=() if cell in QUICK else pytest.mark.slow)
    for cell in product((1, 2), (0, 2), ("fp32", "bf16"))
]


@pytest.mark.parametrize(("D", "workers", "precision"), CELLS)
def test_killed_and_resumed_equals_straight(driver, server, pool, D, workers, precision):
    """D, loader workers and precision, with dropout: SIGKILL of all ranks after step 8, resume from step 5."""
    settings = [f"batch.D={D}", f"data.num_workers={workers}", f"precision={precision}"]
    driver.train(pool, "straight", *settings)
    killed = driver.train(dying(server, 8), "killed", *settings)
    assert killed.end.why in ("failed", "killed")

    ended = driver.resume(pool, "killed")

    assert ended.record.segments[-1].from_step == 5
    assert ended.end.proven_steps == 3
    assert_equal_runs(driver.run("straight"), driver.run("killed"), STEPS)


@pytest.mark.parametrize("D", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_through_torchrun(driver, pool, D):
    """The same through real torchrun processes; the pool's run is the one that never stopped."""
    driver.train(pool, "straight", "batch.D=1")
    backend = TorchrunBackend()
    driver.train(backend, "stopped", f"batch.D={D}", "data.num_workers=2", until=6)

    ended = driver.resume(backend, "stopped")

    assert ended.end.why == "finished"
    assert ended.record.segments[-1].from_step == 6
    assert_equal_runs(driver.run("straight"), driver.run("stopped"), STEPS)


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR1, marks=pytest.mark.slow),
    ],
)
def test_signal_to_workers_saves_and_preempts(driver, server, number):
    """A signal sent to the ranks themselves: the step is finished, saved, and the run resumes equal."""
    pool = PoolBackend(server)
    driver.train(pool, "straight")
    signalled = PoolBackend(server, "signal_itself", step=3, number=int(number))

    ended = driver.train(signalled, "preempted", "batch.D=2")

    assert ended.end.why == "preempted"
    assert ended.step == 4
    error = ended.error(driver.run("preempted"))
    assert isinstance(error, LlmrunError)
    assert error.exit_code == 75

    driver.resume(pool, "preempted")
    assert_equal_runs(driver.run("straight"), driver.run("preempted"), STEPS)


def test_killed_before_any_checkpoint_starts_again(driver, server, pool):
    """No checkpoint yet: a message, a start at step 0, and every recomputed step is compared with the cut tail."""
    driver.train(pool, "straight")
    driver.train(dying(server, 3), "killed")

    ended = driver.resume(pool, "killed")

    assert any("step 0" in line for line in driver.said)
    assert ended.end.proven_steps == 3
    assert chain_of(driver.run("straight")) == chain_of(driver.run("killed"))


def test_another_seed_gives_another_ledger(driver, pool):
    """Another seed gives another ledger from record 0 on: the comparison above can fail."""
    driver.train(pool, "one", until=2)
    driver.train(pool, "other", "seed=43", until=2)
    one, other = (LedgerReader(driver.run(name).ledger_file) for name in ("one", "other"))
    assert one.record(0).weights_digest != other.record(0).weights_digest
    assert one.record(1).tokens_digest != other.record(1).tokens_digest
