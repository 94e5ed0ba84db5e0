"""Jobs that are preempted again and again, and launchers that lose their run while they are suspended."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from llmrun.config.load import load_config
from llmrun.launch.new_run import prepare_fresh
from llmrun.launch.options import LaunchContext, launch_options
from llmrun.launch.segment import run_segment
from llmrun.run.lock import RunLock
from llmrun.run.record import read_record
from llmrun.run.signals import LauncherStopRequest
from llmrun.storage.checkpoint.layout import steps_in
from warm.bits import assert_equal_runs
from warm.driver import STEPS, Silent
from warm.pool import PoolBackend

NO_TIMER = "checkpoint.every_steps=null"


@pytest.mark.slow
def test_five_preemptions_leave_what_retention_keeps(driver, server):
    """No save but that of the stop: each start deletes what the end before it left, and the bits stay."""
    pool = PoolBackend(server)
    driver.train(pool, "straight")
    driver.train(stopped_at(server, 2), "demo", NO_TIMER, "checkpoint.keep_last=2")
    for step in (5, 7, 9, 11):
        assert driver.resume(stopped_at(server, step), "demo").end.why == "preempted"
        assert len(steps_in(driver.run("demo").checkpoints)) <= 3  # two, and the one just saved

    assert driver.resume(pool, "demo").end.why == "finished"
    assert len(steps_in(driver.run("demo").checkpoints)) == 2
    assert_equal_runs(driver.run("straight"), driver.run("demo"), STEPS)


@pytest.mark.slow
def test_the_best_checkpoint_survives_the_start(driver, server):
    """What `keep_best` keeps is not deleted at a start either."""
    keep = (NO_TIMER, "checkpoint.keep_last=1", "checkpoint.keep_best=true", "optimizer.lr=3e-1")
    driver.train(stopped_at(server, 6), "demo", *keep)
    for step in (7, 8, 9):
        driver.resume(stopped_at(server, step), "demo")
    run = driver.run("demo")
    trainer = run.checkpoints / f"step-{steps_in(run.checkpoints)[-1]:08d}" / "trainer.json"
    best = json.loads(trainer.read_text())["best_saved_step"]

    assert best in steps_in(run.checkpoints)
    assert len(steps_in(run.checkpoints)) <= 3


def stopped_at(server, step: int) -> PoolBackend:
    """Workers that get SIGTERM in the step after `step`."""
    return PoolBackend(server, "signal_itself", step=step, number=int(signal.SIGTERM))


class Taker(Silent):
    """An observer under which another host takes the run over after some steps."""

    def __init__(self, run, at_step: int) -> None:
        super().__init__()
        self.run, self.at_step, self.before = run, at_step, {}

    def rows(self, rows) -> None:
        """New numbers."""
        if rows[-1]["step"] >= self.at_step and not self.before:
            owner = json.loads(self.run.lock_file.read_text())
            self.run.lock_file.write_text(json.dumps({**owner, "token": "another", "host": "node7"}))
            time.sleep(1.5)  # a look at the lock is at most a second old
            self.before = contents(self.run)


def contents(run) -> dict[str, object]:
    """What only the owner of a run may change."""
    return {
        "record": run.record_file.read_bytes(),
        "ledger": run.ledger_file.read_bytes(),
        "metrics": run.metrics_file.read_bytes(),
        "checkpoints": steps_in(run.checkpoints),
    }


def test_workers_of_a_launcher_that_lost_its_lock_stop_writing(driver, pool):
    """Within a second of the takeover the workers write nothing more; exit 4; run.json is left to the new owner."""
    options = launch_options(
        [f"runs_dir={driver.directory / 'runs'}", "T_tokens=1Mi", "checkpoint.every_steps=1"], [], None
    )
    run = driver.run("demo")
    with LauncherStopRequest() as stop:
        loaded = load_config(driver.config, options.overrides)
        prepared = prepare_fresh(loaded, "demo", options, LaunchContext(pool, stop, driver.said.append))
        taker = Taker(run, 4)
        ended = run_segment(prepared, pool, stop, taker)

    assert taker.before == contents(run)
    assert ended.end.why == "failed"
    assert ended.end.error.exit_code == 4
    assert read_record(run.record_file).status == "running"
    assert json.loads(run.lock_file.read_text())["token"] == "another"
    assert "taken over" in outcome(run)["error"]["message"]


def outcome(run) -> dict:
    """What rank 0 said at its end."""
    return json.loads(run.outcome_file(1, 0).read_text())


@pytest.mark.slow
def test_a_suspended_launcher_loses_its_run(driver):
    """SIGSTOP of a real launcher, a real takeover: its workers end by themselves, and it exits 4 when it wakes up."""
    sets = [f"runs_dir={driver.directory / 'runs'}", "T_tokens=20Mi", "checkpoint.every_steps=1"]
    command = [sys.executable, "-m", "llmrun", "train", str(driver.config), "--run", "demo"]
    launcher = subprocess.Popen(
        [*command, *(f"--set={item}" for item in sets)], stderr=subprocess.PIPE, text=True
    )
    run = driver.run("demo")
    wait_until(lambda: run.metrics_file.exists() and run.metrics_file.read_text().count("\n") > 3)
    workers = psutil.Process(launcher.pid).children(recursive=True)
    assert workers
    launcher.send_signal(signal.SIGSTOP)
    owner = json.loads(run.lock_file.read_text())
    run.lock_file.write_text(json.dumps({**owner, "host": "node7"}))
    os.utime(run.lock_file, (time.time() - 1000,) * 2)
    with RunLock.acquire(run.lock_file, watch_s=0.5) as lock:
        assert "heartbeat" in lock.taken_over
        wait_until(lambda: run.outcome_file(1, 0).exists())
        before = contents(run)
        launcher.send_signal(signal.SIGCONT)
        _, words = launcher.communicate(timeout=60)

        assert launcher.returncode == 4, words
        assert "taken over" in outcome(run)["error"]["message"]
        assert contents(run) == before
        assert not lock.is_lost
    assert not any(one.is_running() for one in workers)


def wait_until(holds, within_s: float = 120) -> None:
    """Wait for something that another process does."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)
