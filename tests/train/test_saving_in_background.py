"""Saves in the background: the bits of their own step, one at a time, awaited at the end, reported if they fail."""

import signal
from itertools import pairwise

import pytest

from llmrun.errors import EXIT_BUG
from llmrun.storage.checkpoint.layout import step_name, steps_in
from llmrun.storage.checkpoint.verification import verify_files
from llmrun.storage.metrics.jsonl import rows
from warm.bits import assert_equal_runs
from warm.driver import STEPS
from warm.pool import PoolBackend

KEEP_ALL = "checkpoint.keep_last=99"


def files_of(run, step: int) -> dict[str, bytes]:
    """The tensors' files and the manifest of a checkpoint."""
    directory = run.checkpoints / step_name(step)
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize(("D", "strategy"), [(1, "replicate"), (2, "replicate"), (2, "shard")])
def test_training_continues_and_the_bits_are_those_of_the_step(driver, server, pool, D, strategy):
    """Each file is written two steps after its step was copied, and holds the step's own bits."""
    settings = [f"batch.D={D}", f"strategy={strategy}", KEEP_ALL]
    driver.train(pool, "quick", *settings, "data.num_workers=1")
    ended = driver.train(PoolBackend(server, "save_outlasts", steps=2), "slow", *settings, until=14)
    assert ended.end.why == "reached"

    quick, slow = driver.run("quick"), driver.run("slow")
    assert steps_in(slow.checkpoints) == [5, 10, 14]
    for step in (5, 10):
        assert files_of(slow, step) == files_of(quick, step)
    assert verify_files(slow.checkpoints / step_name(14)) == []


def test_a_second_save_waits_for_the_first(driver, server, pool):
    """A save at every step on a slow disk: none is skipped, each is whole, and the bits are the same."""
    settings = ["batch.D=2", "checkpoint.every_steps=1", KEEP_ALL, "T_tokens=3Ki"]
    driver.train(pool, "straight", *settings)
    driver.train(PoolBackend(server, "slow_disk", seconds=0.02), "slow", *settings)

    run = driver.run("slow")
    assert steps_in(run.checkpoints) == [1, 2, 3, 4, 5, 6]
    assert all(verify_files(run.checkpoints / step_name(step)) == [] for step in range(1, 7))
    assert_equal_runs(driver.run("straight"), run, 6)
    costs = [row for row in rows(run.metrics_file) if "checkpoint_step" in row]
    assert [row["checkpoint_step"] for row in costs] == [1, 2, 3, 4]
    assert all(row["step"] > row["checkpoint_step"] for row in costs)
    # Each save after the first waited for the one before it, of which most fsyncs were still to come.
    assert all(row["checkpoint_stall_seconds"] > 0.02 for row in costs[1:])
    assert all(row["checkpoint_seconds"] > 5 * 0.02 for row in costs)


@pytest.mark.parametrize("D", [1, 2])
def test_a_run_that_fails_finishes_its_save_first(driver, server, pool, D):
    """The loss of step 7 is not finite while the save of step 5 has not begun to write: it is committed."""
    failing = PoolBackend(server, "save_outlasts", steps=99, then_poison=7)
    ended = driver.train(failing, "failing", f"batch.D={D}")

    run = driver.run("failing")
    assert "loss of step 7" in ended.error(run).message
    assert steps_in(run.checkpoints) == [5]
    resumed = driver.resume(pool, "failing")
    assert resumed.record.segments[-1].from_step == 5
    assert resumed.end.proven_steps == 1


@pytest.mark.parametrize("rank", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_bug_on_the_writer_thread_is_a_bug_of_the_run(driver, server, rank):
    """It ends the run with its own message and exit code 70, on any rank."""
    ended = driver.train(PoolBackend(server, "writer_bug", rank=rank), "broken", "batch.D=2")

    run = driver.run("broken")
    error = ended.error(run)
    assert error.exit_code == EXIT_BUG
    assert "a seeded bug" in error.message
    assert steps_in(run.checkpoints) == []
    assert "Traceback" in run.rank_log(1, rank).read_text()


def test_only_one_save_by_the_clock_is_under_way(driver, server):
    """Minutes that pass while a save is written start no second one; the bits do not depend on the clock."""
    settings = ["checkpoint.every_steps=null", "checkpoint.every_minutes=1", KEEP_ALL]
    ended = driver.train(PoolBackend(server, "save_outlasts", steps=3, minute_s=0.0), "timed", *settings)

    run = driver.run("timed")
    assert ended.end.why == "finished"
    steps = steps_in(run.checkpoints)
    assert steps[-1] == STEPS
    assert all(later - earlier >= 3 for earlier, later in pairwise(steps[:-1]))


def test_a_stop_puts_off_what_is_only_for_deleting(driver, server, pool):
    """Stopped at step 4: that step is saved and step 2 still stands; saves after a resume delete what is too much."""
    settings = ["checkpoint.every_steps=2", "checkpoint.keep_last=1", "checkpoint.keep_best=false"]
    stopped = PoolBackend(server, "signal_itself", step=3, number=int(signal.SIGTERM))
    ended = driver.train(stopped, "stopped", *settings)

    run = driver.run("stopped")
    assert (ended.end.why, ended.step) == ("preempted", 4)
    assert steps_in(run.checkpoints) == [2, 4]
    assert verify_files(run.checkpoints / step_name(4)) == []
    assert driver.resume(pool, "stopped").end.why == "finished"
    assert steps_in(run.checkpoints) == [STEPS]
