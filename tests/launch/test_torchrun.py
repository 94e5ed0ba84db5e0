"""torchrun's command line as a golden text, and the real agent with a worker that needs no torch."""

import gc
import os
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace

import psutil
import pytest

from llmrun.launch.failure_report import segment_failure
from llmrun.launch.loopback import Loopback
from llmrun.launch.orphans import orphans_of
from llmrun.launch.torchrun import BOOT, TorchrunBackend, WorkerJob, torchrun_arguments
from llmrun.run.directory import RunDirectory
from llmrun.run.worker_spec import Outcome

GOLDEN = """\
--nnodes=1
--nproc-per-node=8
--max-restarts=0
--monitor-interval=0.1
--rdzv-backend=c10d
--rdzv-endpoint=127.0.0.1:0
--rdzv-id=3-0123456789abcdef
--local-addr=127.0.0.1
--log-dir=runs/demo/logs/segment-003/torchrun
--no-python
PYTHON
-P
-S
-u
BOOT
-m
llmrun.runtime.worker
runs/demo
3
"""

WORKER = """
import os, signal, sys, time
from pathlib import Path
from llmrun.machine import die_with_parent
from llmrun.run.directory import RunDirectory
from llmrun.run.worker_spec import Outcome

die_with_parent(int(os.environ["LLMRUN_AGENT_PID"]))
run, segment, rank = RunDirectory(Path(sys.argv[1])), int(sys.argv[2]), int(os.environ["RANK"])
(run.segment_logs(segment) / f"pid-{rank}").write_text(str(os.getpid()))
if os.environ["MODE"] == "killed" and rank == 1:
    with run.rank_log(segment, rank).open("w") as log:
        log.write("about to use too much memory\\n")
    os.kill(os.getpid(), signal.SIGKILL)
if os.environ["MODE"] == "done":
    Outcome(rank, "finished", 1).write(run.outcome_file(segment, rank))
    sys.exit(0)
def asked(*_):
    Outcome(rank, "preempted", 1).write(run.outcome_file(segment, rank))
    sys.exit(0)
signal.signal(signal.SIGTERM, asked)
signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())
(run.segment_logs(segment) / f"ready-{rank}").touch()
time.sleep(60)
"""


def test_golden_command_line():
    """A human reads the difference when this changes."""
    from pathlib import Path

    job = WorkerJob(RunDirectory(Path("runs/demo")), 3, 8, {})
    line = torchrun_arguments(job, "3-0123456789abcdef", Loopback("lo", "127.0.0.1"))

    names = {sys.executable: "PYTHON", str(BOOT): "BOOT"}
    assert "\n".join([*(names.get(word, word) for word in line), ""]) == GOLDEN


def test_two_runs_never_meet():
    """Port 0 and a rendezvous of its own: nothing of a command line can collide with another run's."""
    assert "--rdzv-endpoint=127.0.0.1:0" in GOLDEN
    assert "port" not in GOLDEN


@pytest.fixture
def job(tmp_path, monkeypatch):
    """Two tiny workers of a run, started through real torchrun."""
    (tmp_path / "tiny_worker.py").write_text(WORKER)
    for module in ("torchrun", "orphans"):
        monkeypatch.setattr(f"llmrun.launch.{module}.WORKER_MODULE", "tiny_worker")
    run = RunDirectory(tmp_path / "run")
    run.segment_logs(1).mkdir(parents=True)

    def made(mode: str) -> WorkerJob:
        environment = {**os.environ, "PYTHONPATH": str(tmp_path), "MODE": mode, "OMP_NUM_THREADS": "1"}
        return WorkerJob(run, 1, 2, environment)

    return made


def wait_for(condition, seconds: float = 60):
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def pids_of(run: RunDirectory) -> list[int]:
    """The workers that have started."""
    return [int(text) for path in run.segment_logs(1).glob("pid-*") if (text := path.read_text())]


def gone(pids: list[int]) -> bool:
    """Whether none of these processes lives."""
    return not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids)


@pytest.mark.slow
def test_workers_that_finish(job):
    """All outcomes, exit code 0, no process left."""
    workers = TorchrunBackend().start(job("done"))
    run = job("done").run
    wait_for(lambda: workers.poll() is not None)

    assert workers.poll() == 0
    assert [run.outcome_file(1, rank).exists() for rank in (0, 1)] == [True, True]
    assert not run.failures_file(1).exists()


def test_a_killed_worker_is_named_with_its_signal(job):
    """The first failing rank, its signal, its own last words and a hint reach the user."""
    workers = TorchrunBackend().start(job("killed"))
    run = job("killed").run
    wait_for(lambda: workers.poll() is not None)
    error = segment_failure(run, 1, [], workers.poll())

    assert error.message.startswith("rank 1 was killed by SIGKILL (PID ")
    assert error.caused_by == ("about to use too much memory",)
    assert "lack of memory" in error.hints[0]
    assert error.exit_code == 4
    assert gone(pids_of(run))


@pytest.mark.slow
def test_kill_leaves_nothing(job):
    """SIGKILL of agent and workers, and they are gone when it returns; until then each is seen to work there."""
    workers = TorchrunBackend().start(job("sleep"))
    run = job("sleep").run
    wait_for(lambda: len(pids_of(run)) == 2)
    assert {process.pid for process in orphans_of(run)} == {workers.pid, *pids_of(run)}
    workers.kill()

    assert orphans_of(run) == []
    assert gone([workers.pid, *pids_of(run)])
    assert workers.poll() == -signal.SIGKILL
    workers.kill()


def test_a_stop_by_signal_reaches_the_workers_and_not_the_agent(job):
    """Each worker ends in its own way; torchrun ends because they have, with nothing to complain about."""
    workers = TorchrunBackend().start(job("sleep"))
    run = job("sleep").run
    wait_for(lambda: len(list(run.segment_logs(1).glob("ready-*"))) == 2)
    workers.terminate()
    wait_for(lambda: workers.poll() is not None)
    workers.terminate()

    assert workers.poll() == 0
    assert [Outcome.read(run.outcome_file(1, rank)).kind for rank in (0, 1)] == ["preempted"] * 2
    assert not run.failures_file(1).exists()


LAUNCHER = """
import os, sys, time
from pathlib import Path
import llmrun.launch.torchrun as torchrun
from llmrun.launch.loopback import Loopback
from llmrun.launch.torchrun import WorkerJob
from llmrun.run.directory import RunDirectory
torchrun.WORKER_MODULE = "tiny_worker"
run = RunDirectory(Path(sys.argv[1]))
workers = torchrun.TorchrunBackend().start(WorkerJob(run, 1, 2, dict(os.environ)))
print(workers.pid, flush=True)
time.sleep(60)
"""


def test_no_orphan_when_the_launcher_is_sigkilled(job):
    """Agent and workers, each in a session of its own, die with the launcher."""
    wanted = job("sleep")
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, str(wanted.run.path)],
        env=wanted.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    agent = int(launcher.stdout.readline())
    wait_for(lambda: len(pids_of(wanted.run)) == 2)
    launcher.kill()
    launcher.wait()
    everybody = [agent, *pids_of(wanted.run)]
    wait_for(lambda: gone(everybody), seconds=10)

    assert gone(everybody)


PROBE = """
import json, os, sys
found = {"environment": {"agent": os.getppid()}, "recorded": {}, "source_files": {}}
os.write(int(os.environ["LLMRUN_ANSWER_FD"]), ("\\n" + json.dumps(found) + "\\n").encode())
"""

WAITING = """
import os, sys, time
import llmrun.launch.torchrun as torchrun
torchrun.PROBE_MODULE = "tiny_probe"
print(torchrun.TorchrunBackend().probe("cpu", dict(os.environ), lambda: None).environment["agent"], flush=True)
backend = torchrun.TorchrunBackend()
print(backend.probe("cpu", dict(os.environ), lambda: None).environment["agent"], flush=True)
time.sleep(60)
"""


@pytest.fixture
def probed(job, tmp_path, monkeypatch):
    """A job, and a backend whose agent has answered a probe and waits; with the agent's PID."""
    (tmp_path / "tiny_probe.py").write_text(PROBE)
    monkeypatch.setattr("llmrun.launch.torchrun.PROBE_MODULE", "tiny_probe")
    backend, wanted = TorchrunBackend(), job("done")
    agent = backend.probe("cpu", wanted.environment, lambda: None).environment["agent"]
    assert not gone([agent])
    return backend, wanted, agent


def test_the_agent_of_the_probe_starts_the_workers(probed):
    """Workers are its forks; a second segment gets an agent of its own."""
    backend, wanted, agent = probed
    for pids in ({agent}, set()):
        workers = backend.start(wanted)
        wait_for(lambda workers=workers: workers.poll() is not None)

        assert workers.poll() == 0
        assert {workers.pid} & {agent} == pids
        assert gone([agent, workers.pid])
    assert Outcome.read(wanted.run.outcome_file(1, 1)).kind == "finished"


def test_no_file_is_left_to_the_garbage_collector(probed, monkeypatch):
    """`PYTHONWARNINGS=error` prints a traceback for each, though nothing is wrong."""
    backend, wanted, _ = probed
    ignored = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        workers = backend.start(wanted)
        wait_for(lambda: workers.poll() is not None)
        backend.start(wanted).kill()
        gc.collect()

    assert ignored == []


def test_an_agent_with_other_variables_is_not_used(probed):
    """What is started has the variables of its job, whatever was probed."""
    backend, wanted, agent = probed
    workers = backend.start(replace(wanted, environment={**wanted.environment, "X": "y"}))

    assert workers.pid != agent
    assert gone([agent])
    workers.kill()


def test_an_agent_that_ended_while_it_waited_is_replaced(probed):
    """Somebody killed it: the workers are started all the same."""
    backend, wanted, agent = probed
    os.kill(agent, signal.SIGKILL)
    wait_for(lambda: gone([agent]))
    workers = backend.start(wanted)
    wait_for(lambda: workers.poll() is not None)

    assert workers.poll() == 0


def test_a_waiting_agent_ends_with_its_backend_and_with_the_launcher(probed, tmp_path):
    """Dropped after a refusal, or SIGKILLed with the launcher: no process is left."""
    _, wanted, _ = probed
    launcher = subprocess.Popen(
        [sys.executable, "-c", WAITING], env=wanted.environment, stdout=subprocess.PIPE, text=True
    )
    dropped, waiting = int(launcher.stdout.readline()), int(launcher.stdout.readline())

    assert gone([dropped])
    assert not gone([waiting])
    launcher.kill()
    launcher.wait()
    wait_for(lambda: gone([waiting]), seconds=10)
