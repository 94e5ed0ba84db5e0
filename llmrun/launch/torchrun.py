"""Starts workers through torchrun, in a session of their own."""

import os
import secrets
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

import psutil

from llmrun.durable import open_to_append
from llmrun.launch.loopback import Loopback, find_loopback
from llmrun.launch.probe import child_command, run_probe
from llmrun.launch.starter import Probe, WorkerJob
from llmrun.run.signals import STOP_SIGNALS

WORKER_MODULE = "llmrun.train.worker"
GONE_WITHIN_S = 30


def command_line(job: WorkerJob, parent: int, rendezvous: str, loopback: Loopback) -> list[str]:
    """The command that starts torchrun's agent and D workers.

    Port 0 lets the system choose a free one, and the rendezvous has a name of its own: two runs on one
    host never meet.  torchrun restarts nothing: a new segment is the launcher's decision.
    """
    run, segment = job.run, job.segment
    return [
        *child_command("llmrun.launch.agent"),
        str(parent),
        str(run.failures_file(segment)),
        "--nnodes=1",
        f"--nproc-per-node={job.D}",
        "--max-restarts=0",
        "--monitor-interval=0.1",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={loopback.endpoint}",
        f"--rdzv-id={rendezvous}",
        f"--local-addr={loopback.address}",
        f"--log-dir={run.segment_logs(segment) / 'torchrun'}",
        "--no-python",
        *child_command(WORKER_MODULE),
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
        """See `Starter.start`.  To be called from the main thread: workers die with the thread that forked.

        Raises RefusedError if this machine has no loopback interface.
        """
        rendezvous = f"{job.segment}-{secrets.token_hex(16)}"  # not the run's name, which may be no UTF-8
        with (
            os.fdopen(open_to_append(job.run.torchrun_log(job.segment)), "ab") as log,
            stop_signals_blocked(),
        ):
            agent = subprocess.Popen(
                command_line(job, os.getpid(), rendezvous, find_loopback()),
                env=dict(job.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return TorchrunWorkers(agent)
