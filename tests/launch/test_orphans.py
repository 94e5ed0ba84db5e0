"""A run is not touched while processes of its earlier segment are still dying."""

import os
import subprocess
import sys
import time

import pytest

from llmrun.errors import PreemptedError, RefusedError
from llmrun.launch.orphans import orphans_of, wait_for_orphans

SLEEP = "import sys, time; print(flush=True); time.sleep(float(sys.argv[1]))"


@pytest.fixture
def worker():
    """Start a process with the command line of a worker."""
    started = []

    def start(run_path, seconds: float = 60, cwd=None):
        line = [sys.executable, "-c", SLEEP, str(seconds), "-m", "llmrun.runtime.worker", str(run_path), "1"]
        process = subprocess.Popen(line, cwd=cwd, stdout=subprocess.PIPE)
        process.stdout.readline()
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_a_resume_waits_for_a_worker_that_is_not_gone_yet(interrupted, worker):
    """Nothing of the run is cut or moved before its old worker has ended."""
    process = worker(interrupted.run.path, seconds=1)
    interrupted.resume()

    assert process.poll() is not None
    assert any(line.startswith("waiting ") and str(process.pid) in line for line in interrupted.said)


def test_a_worker_that_stays_is_a_refusal(interrupted, worker):
    """Bounded: exit 3, its PID and what to do."""
    process = worker(interrupted.run.path)
    with pytest.raises(RefusedError) as caught:
        wait_for_orphans(interrupted.run, interrupted.said.append, within_s=0.2)

    assert str(process.pid) in caught.value.message
    assert str(caught.value.where) == str(interrupted.run.path)
    assert caught.value.hints[0].startswith(f"`kill -9 {process.pid}` ends them")


def test_relative_paths_and_links_name_the_same_run(interrupted, worker):
    """A worker knows the run by the path that its launcher was given, from its own working directory."""
    relative = worker("runs/demo", cwd=interrupted.path)
    (interrupted.path / "link").symlink_to(interrupted.run.path)
    linked = worker(interrupted.path / "link")

    assert {process.pid for process in orphans_of(interrupted.run)} == {relative.pid, linked.pid}


def test_workers_of_other_runs_are_nobodys_business(interrupted, worker):
    """Another run is trained beside it."""
    worker("runs/demo", cwd="/")
    worker(interrupted.path)
    worker(interrupted.path / "gone")
    looking = [sys.executable, "-c", SLEEP, "60", "llmrun.runtime.worker", str(interrupted.run.path)]
    looker = subprocess.Popen(looking, stdout=subprocess.PIPE)
    begun = time.monotonic()
    wait_for_orphans(interrupted.run, interrupted.said.append, within_s=60)
    looker.kill()
    looker.wait()

    assert orphans_of(interrupted.run) == []
    assert time.monotonic() - begun < 30


def test_a_dead_worker_that_nobody_reaps_is_gone(interrupted, worker):
    """In a container without an init, orphans stay zombies for ever."""
    process = worker(interrupted.run.path)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)

    assert orphans_of(interrupted.run) == []


def test_a_stop_ends_the_waiting(interrupted, worker):
    """A signal need not wait for a dying disk."""
    worker(interrupted.run.path)

    def check():
        raise PreemptedError("stopped")

    with pytest.raises(PreemptedError):
        wait_for_orphans(interrupted.run, interrupted.said.append, check, within_s=60)
