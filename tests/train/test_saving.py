"""Saving where the disk is full: all ranks agree, the run goes on or stops, the best checkpoint is not lost."""

import json
import shutil
from itertools import pairwise

import pytest

from llmrun.errors import RunFailedError
from llmrun.storage.checkpoint.layout import step_name, steps_in
from llmrun.storage.checkpoint.verification import verify_files
from warm.bits import assert_equal_runs
from warm.driver import STEPS
from warm.pool import PoolBackend


@pytest.mark.parametrize("rank", [0, 1])
def test_a_full_disk_on_one_rank_lets_all_go_on(driver, server, pool, rank):
    """D = 2, `continue`: no checkpoint at that step, a remark in the rank's words, later ones exist."""
    driver.train(pool, "straight", "batch.D=2")
    ended = driver.train(PoolBackend(server, "disk_full_once", step=5, rank=rank), "full", "batch.D=2")

    run = driver.run("full")
    assert ended.end.why == "finished"
    failed, again = ended.end.remarks
    assert failed.startswith(
        f"no checkpoint at step 5: rank {rank} cannot write step-00000005: No space left on device"
    )
    assert again == "checkpoints are saved again, that of step 10 is complete"
    assert steps_in(run.checkpoints) == [15, 16]
    assert [path.name for path in run.checkpoints.iterdir() if path.name.startswith(".")] == []
    assert verify_files(run.checkpoints / "step-00000015") == []
    assert_equal_runs(driver.run("straight"), run, STEPS)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_full_disk_on_one_rank_stops_all(driver, server, rank):
    """D = 2, `stop`: exit code 4 with the cause, nothing half-written, and the run resumes."""
    full = PoolBackend(server, "disk_full_once", step=10, rank=rank)
    ended = driver.train(full, "full", "batch.D=2", "checkpoint.on_disk_full=stop")

    run = driver.run("full")
    error = ended.error(run)
    assert isinstance(error, RunFailedError)
    assert error.message.startswith(f"rank {rank} cannot write step-00000010: No space left on device")
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-00000005"]


def test_a_disk_too_small_for_a_checkpoint_is_seen_by_all(driver, server):
    """Rank 0 finds no room before anything is written: both go on at once."""
    ended = driver.train(PoolBackend(server, "no_room_at_first"), "full", "batch.D=2")

    run = driver.run("full")
    assert ended.end.why == "finished"
    assert len(ended.end.remarks) == 2
    assert ended.end.remarks[0].startswith("no checkpoint at step 5: a checkpoint of ")
    assert steps_in(run.checkpoints) == [15, 16]


def test_a_best_step_that_was_not_saved_is_not_taken_for_saved(driver, server, pool):
    """The disk was full at the best step: trainer.json says so, and a resume keeps and finds the one before."""
    settings = ["checkpoint.keep_best=true", "checkpoint.keep_last=9"]
    driver.train(PoolBackend(server, "disk_full_once", step=12, rank=0), "full", *settings)
    run = driver.run("full")
    shutil.rmtree(run.checkpoints / "step-00000016")
    trainer = json.loads((run.checkpoints / "step-00000015" / "trainer.json").read_text())
    assert (trainer["best_step"], trainer["best_saved_step"]) == (12, 8)

    driver.resume(pool, "full", "eval.every_steps=null", "checkpoint.keep_last=1")
    assert steps_in(run.checkpoints) == [8, 16]

    ended = driver.resume(pool, "full", start="best", until=9)
    assert ended.record.segments[-1].from_step == 8


def test_the_best_step_being_saved_counts_as_saved(driver, pool):
    """A checkpoint of a best step names itself."""
    driver.train(pool, "best", "checkpoint.keep_best=true", until=4)
    trainer = json.loads((driver.run("best").checkpoints / "step-00000004" / "trainer.json").read_text())

    assert (trainer["best_step"], trainer["best_saved_step"]) == (4, 4)


def test_a_rank_reports_on_a_full_disk(driver, server):
    """No file can be made and no word be logged any more: the outcome still says why, in room kept for it."""
    ended = driver.train(PoolBackend(server, "disk_full_from", step=9), "full", "batch.D=2")

    run = driver.run("full")
    error = ended.error(run)
    assert isinstance(error, RunFailedError)
    assert "No space left on device" in error.message
    assert any("no checkpoint at step 10" in warning for warning in ended.end.remarks)
    assert [path.name for path in run.segment_logs(1).iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("D", [1, 2])
def test_after_a_full_disk_it_is_tried_again(driver, server, D):
    """No room at step 8 and at two later looks; then a save that no step asked for, and not before."""
    tight = PoolBackend(server, "no_room_at_first", looks=3, retry_s=0.0)
    ended = driver.train(tight, "full", f"batch.D={D}", "checkpoint.every_steps=8", "checkpoint.keep_last=9")

    steps = steps_in(driver.run("full").checkpoints)
    assert steps == [11, 16]
    assert [warning.split(":")[0] for warning in ended.end.remarks] == [
        "no checkpoint at step 8",
        "checkpoints are saved again, that of step 11 is complete",
    ]


@pytest.mark.parametrize("D", [1, 2])
def test_what_a_checkpoint_names_is_on_the_device_before_it_is(driver, server, D, tmp_path):
    """Between two commits, ledger and metrics are forced to disk, and the one that follows comes after."""
    notes = tmp_path / "disk"
    driver.train(PoolBackend(server, "note_disk", path=str(notes)), "noted", f"batch.D={D}")

    lines = notes.read_text().splitlines()
    names = {f"rename {step_name(step)}" for step in (5, 10, 15, 16)}
    commits = [number for number, line in enumerate(lines) if line in names]
    assert len(commits) == 4
    for before, commit in pairwise([0, *commits]):
        assert {"fsync ledger.bin", "fsync metrics.jsonl"} <= set(lines[before:commit])
