"""Starts processes: workers through torchrun in a session of their own, and the probe; with their environment."""

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil

import llmrun
from llmrun.errors import RefusedError
from llmrun.launch.loopback import INTERFACE_VARIABLES, TORCHRUN_OPTIONS, Loopback, find_loopback
from llmrun.machine import ANSWER, RANKS
from llmrun.run.directory import RunDirectory
from llmrun.run.signals import STOP_SIGNALS
from llmrun.storage.durable import open_to_append


@dataclass(frozen=True)
class Probe:
    """What a worker would find.

    environment:   digested: preimage of the fingerprint's part `environment`.
    recorded:      facts that cannot change bits: driver, NCCL, …
    source_files:  import path -> digest of the files of llmrun and of the user that a worker imports.
    """

    environment: Mapping[str, Any]
    recorded: Mapping[str, Any]
    source_files: Mapping[str, str]


@dataclass(frozen=True)
class WorkerJob:
    """Workers to start: D ranks of one segment, with exactly these variables."""

    run: RunDirectory
    segment: int
    D: int
    environment: Mapping[str, str]


class Workers(Protocol):
    """Started workers, all ranks together."""

    def poll(self) -> int | None:
        """None while any process lives; then an exit code, which says little: outcomes decide."""
        ...

    def terminate(self) -> None:
        """SIGTERM to every worker: the same request to save and stop, where no file can be made."""
        ...

    def kill(self) -> None:
        """SIGKILL every process and return when all are gone.  Harmless where they are gone already."""
        ...


class ProcessBackend(Protocol):
    """Looks and starts."""

    def probe(self, device: str, environment: Mapping[str, str], check: Callable[[], None]) -> Probe:
        """What a worker on this device and with these variables would find.

        device: `cpu` or `cuda`.
        check: called several times a second; what it raises ends the probing.
        Raises RefusedError where a worker could not start here.
        """
        ...

    def start(self, job: WorkerJob) -> Workers:
        """Start the workers.  They die with this process, however it ends."""
        ...


CUBLAS_WORKSPACE = ":4096:8"
"""Eight buffers of 4 MiB per stream: one of the two settings that cuBLAS calls deterministic."""


def worker_environment(
    base: Mapping[str, str], threads_per_rank: int, ranks: int | None = None
) -> dict[str, str]:
    """The variables of every worker, on top of `base` (those of the launcher).

    ranks: number of ranks on this host; the probe looks at as many GPUs.  None: at all that are visible.
    An empty entry of PYTHONPATH means the working directory to Python, and is left out: `PYTHONPATH=$PYTHONPATH:DIR`
    has one if the variable was not set.
    Raises RefusedError if this machine has no loopback interface.
    """
    threads = str(threads_per_rank)
    pinned = {
        "OMP_NUM_THREADS": threads,  # torchrun sets it only where D > 1: bits would differ at D = 1
        "MKL_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "CUBLAS_WORKSPACE_CONFIG": CUBLAS_WORKSPACE,
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONHASHSEED": "0",
        "PYTHONSAFEPATH": "1",  # no `profile.py` of the working directory is imported in place of Python's own
        "PYTHONUNBUFFERED": "1",  # the last words of a killed worker reach its log
        "PYTHONFAULTHANDLER": "1",  # so does the Python stack of one that crashed
        "PYTHONUTF8": "1",  # file names and text files are UTF-8 in every locale
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "0",  # without it torch looks `localhost` up for a free port
        **dict.fromkeys(INTERFACE_VARIABLES, find_loopback().interface),
    }
    if ranks is not None:
        pinned[RANKS] = str(ranks)
    if "PYTHONPATH" in base:
        pinned["PYTHONPATH"] = os.pathsep.join(filter(None, base["PYTHONPATH"].split(os.pathsep)))
    kept = {name: value for name, value in base.items() if not name.startswith(TORCHRUN_OPTIONS)}
    return {**kept, **pinned}


PROBE_MODULE = "llmrun.runtime.probe"
BOOT = Path(llmrun.__file__).resolve().parent / "launch" / "boot.py"
POLL_S = 0.1
TIMEOUT_S = 600
LAST_LINES = 12
EXECUTING = "executing "


def child_command(module: str) -> list[str]:
    """The command that runs a module of this llmrun in a child process; its arguments are to follow.

    -P: the working directory is no import root.  -S: `site` runs when the import recorder watches.
    """
    return [sys.executable, "-P", "-S", "-u", str(BOOT), "-m", module]


def run_probe(device: str, environment: Mapping[str, str], check: Callable[[], None]) -> Probe:
    """Start a probe with a worker's variables and read its answer.

    device: `cpu` or `cuda`, on which the workers would train.
    check: called at every poll; what it raises ends the probe.
    Raises RefusedError if it fails: a worker could not start here either.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as words:
        process = subprocess.Popen(
            [*child_command(PROBE_MODULE), device],
            env={**environment, ANSWER: str(output.fileno())},
            stdin=subprocess.DEVNULL,
            stdout=words,
            stderr=words,
            pass_fds=[output.fileno()],
            start_new_session=True,  # Ctrl-C at a terminal is ours to handle
        )
        try:
            exit_code = wait(process, check)
        finally:
            process.kill()
            process.wait()
        check()
        output.seek(0)
        words.seek(0)
        lines = os.fsdecode(output.read()).splitlines()
        return answer(exit_code, lines, words.read().decode(errors="replace"))


def wait(process: subprocess.Popen[bytes], check: Callable[[], None]) -> int:
    """The exit code of a process, `check` called meanwhile.  Raises RefusedError after ten minutes."""
    for _ in range(int(TIMEOUT_S / POLL_S)):
        try:
            return process.wait(POLL_S)
        except subprocess.TimeoutExpired:
            check()
    raise RefusedError(f"looking at the environment took longer than {TIMEOUT_S} s")


def answer(exit_code: int, lines: list[str], words: str) -> Probe:
    """The probe's answer: a JSON object on the last line of its file.

    words: what it printed.  Raises RefusedError that names the file in which it ended, if there is no answer.
    """
    document = _object_in(lines)
    if exit_code == 0 and "environment" in document:
        return Probe(document["environment"], document["recorded"], document["source_files"])
    own_files = [line.removeprefix(EXECUTING) for line in lines if line.startswith(EXECUTING)]
    file = document.get("file") or (own_files[-1] if own_files else None)
    also = [f"{path} was imported, which no installed package holds" for path in own_files if path != file]
    last = [line for line in words.splitlines() if line.strip()][-LAST_LINES:]
    raise RefusedError(
        f"cannot start a worker here: the probe of its environment ended with exit code {exit_code}",
        where=file,
        caused_by=[*last, *also[-LAST_LINES:]],
    )


def _object_in(lines: list[str]) -> dict[str, Any]:
    """The JSON object on the last line; empty if the process ended before it wrote one."""
    try:
        found = json.loads(lines[-1])
    except (IndexError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


WORKER_MODULE = "llmrun.runtime.worker"
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


class TorchrunBackend:
    """The starter of every real run."""

    def probe(self, device: str, environment: Mapping[str, str], check: Callable[[], None]) -> Probe:
        """See `ProcessBackend.probe`."""
        return run_probe(device, environment, check)

    def start(self, job: WorkerJob) -> TorchrunWorkers:
        """See `ProcessBackend.start`.  To be called from the main thread: workers die with the thread that forked.

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
