"""Starts workers through torchrun, in a session of their own."""

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

import psutil

from llmrun.launch.probe import run_probe
from llmrun.launch.starter import Probe, WorkerJob
from llmrun.run.signals import STOP_SIGNALS

WORKER_MODULE = "llmrun.train.worker"
GONE_WITHIN_S = 30


def command_line(job: WorkerJob, parent: int, rendezvous: str) -> list[str]:
    """The command that starts torchrun's agent and D workers.

    Port 0 lets the system choose a free one, and the rendezvous has a name of its own: two runs on one
    host never meet.  torchrun restarts nothing: a new segment is the launcher's decision.
    """
    run, segment = job.run, job.segment
    return [
        sys.executable,
        "-m",
        "llmrun.launch.agent",
        str(parent),
        str(run.failures_file(segment)),
        "--nnodes=1",
        f"--nproc-per-node={job.D}",
        "--max-restarts=0",
        "--monitor-interval=0.1",
        "--rdzv-backend=c10d",
        "--rdzv-endpoint=localhost:0",
        f"--rdzv-id={rendezvous}",
        "--local-addr=127.0.0.1",
        f"--log-dir={run.segment_logs(segment) / 'torchrun'}",
        "-m",
        WORKER_MODULE,
        str(run.path),
        str(segment),
    ]


class TorchrunWorkers:
    """A running agent and all processes below it."""

    def __init__(self, agent: subprocess.Popen[bytes]) -> None:
        self._agent = agent

    @property
    def pid(self) -> int:
        """The agent's PID."""
        return self._agent.pid

    def poll(self) -> int | None:
        """The agent's exit code; None while it lives."""
        return self._agent.poll()

    def terminate(self) -> None:
        """SIGTERM to the workers."""
        ask_workers_to_stop(self._agent.pid)

    def kill(self) -> None:
        """SIGKILL agent, workers and loader workers.

        Each would die with its parent anyway; they are listed first and killed one by one, so that one
        that has just started and does not yet know about its parent goes too.
        """
        if self.poll() is not None:
            return
        below = descendants(self._agent.pid)
        self._agent.kill()
        for process in below:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._agent.wait()
        psutil.wait_procs(below, timeout=GONE_WITHIN_S)


def ask_workers_to_stop(agent: int) -> None:
    """SIGTERM to the workers of an agent; neither to the agent nor to loader workers.

    agent: its PID.
    """
    for process in descendants(agent, recursive=False):
        with suppress(psutil.Error):
            if WORKER_MODULE in process.cmdline():
                process.terminate()


@contextmanager
def stop_signals_blocked() -> Iterator[None]:
    """Let processes that are started here begin with the stop signals blocked, so that none is lost."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def descendants(pid: int, *, recursive: bool = True) -> list[psutil.Process]:
    """All processes below `pid`, or only its children; none where it is gone."""
    try:
        return psutil.Process(pid).children(recursive=recursive)
    except psutil.NoSuchProcess:
        return []


class TorchrunStarter:
    """The starter of every real run."""

    def probe(self, device: str, environment: Mapping[str, str], check: Callable[[], None]) -> Probe:
        """See `Starter.probe`."""
        return run_probe(device, environment, check)

    def start(self, job: WorkerJob) -> TorchrunWorkers:
        """See `Starter.start`.  To be called from the main thread: workers die with the thread that forked."""
        rendezvous = f"{job.run.name}-{job.segment}-{secrets.token_hex(8)}"
        with job.run.torchrun_log(job.segment).open("ab") as log, stop_signals_blocked():
            agent = subprocess.Popen(
                command_line(job, os.getpid(), rendezvous),
                env=dict(job.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return TorchrunWorkers(agent)
