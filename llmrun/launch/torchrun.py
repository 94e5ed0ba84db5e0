"""Worker processes and the probe of their environment, started through torchrun.

An agent process runs torchrun and its workers are forks of it (llmrun/launch/agent.py).  It is started for the probe,
imports what workers need while the launcher asks git and pip, and then waits for its job: nothing is imported twice.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any, Protocol, Self

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
    """The environment and the code that a worker loads.

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
        """None while any process lives; then an exit code.  Outcomes decide how a segment ended, not this."""
        ...

    def terminate(self) -> None:
        """SIGTERM to every worker: the request to save and stop, for when no stop file can be made."""
        ...

    def kill(self) -> None:
        """SIGKILL every process and return when all are gone.  Does nothing if they are gone already."""
        ...


class ProcessBackend(Protocol):
    """Probes the environment of workers, and starts them."""

    def probe(self, device: str, environment: Mapping[str, str], check: Callable[[], None]) -> Probe:
        """Find out what a worker on this device and with these variables loads.

        device: `cpu` or `cuda`.
        check: called several times a second; what it raises ends the probing.
        Raises RefusedError if a worker cannot start here.
        """
        ...

    def describe_model(self, environment: Mapping[str, str], check: Callable[[], None]) -> dict[str, Any]:
        """Construct the user's own model that LLMRUN_MODEL names in `environment`.

        check: as for `probe`.
        Returns `{"facts": ModelFacts as JSON}`, or `{"refused": an error as JSON}` if it cannot be trained.
        Raises RefusedError if the process fails.
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
        "OMP_NUM_THREADS": threads,  # torchrun sets it only if D > 1: bits would differ at D = 1
        "MKL_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "CUBLAS_WORKSPACE_CONFIG": CUBLAS_WORKSPACE,
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONHASHSEED": "0",
        "PYTHONSAFEPATH": "1",  # no `profile.py` of the working directory is imported in place of Python's own
        "PYTHONUNBUFFERED": "1",  # what a killed worker printed last reaches its log
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


BOOT = Path(llmrun.__file__).resolve().parent / "launch" / "boot.py"
AGENT_MODULE = "llmrun.launch.agent"
PROBE_MODULE = "llmrun.runtime.probe"
MODEL_FACTS_MODULE = "llmrun.runtime.model_facts"
WORKER_MODULE = "llmrun.runtime.worker"

PROBE_WITHIN_S = 600
PROBE_POLL_S = 0.02
LAST_LINES = 12
GONE_WITHIN_S = 30


def child_command(module: str) -> list[str]:
    """The command that runs a module of this llmrun in a child process; append its arguments.

    -P: the working directory is no import root.  -S: `site` runs when the import recorder watches.
    """
    return [sys.executable, "-P", "-S", "-u", str(BOOT), "-m", module]


@dataclass(frozen=True)
class AgentJob:
    """What a waiting agent needs to start the workers of one segment; sent to it as a line of JSON.

    log:           file that the agent appends its output to.
    failures_file: file for the workers that failed (rank, PID, exit code).
    stop_file:     file that the agent makes when it gets a stop signal.
    torchrun:      arguments of torchrun.
    status_file:   file for PID and exit code of the fork that runs the job; the agent then waits for another job.
                   None: the agent runs the job itself.
    """

    log: str
    failures_file: str
    stop_file: str
    torchrun: list[str]
    status_file: str | None = None

    @classmethod
    def of(cls, job: WorkerJob, rendezvous: str, loopback: Loopback) -> Self:
        """The files and torchrun arguments of a job."""
        run, segment = job.run, job.segment
        return cls(
            log=str(run.torchrun_log(segment)),
            failures_file=str(run.failures_file(segment)),
            stop_file=str(run.stop_file(segment)),
            torchrun=torchrun_arguments(job, rendezvous, loopback),
        )

    def to_line(self) -> bytes:
        """The job as ASCII JSON on one line."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def of_line(cls, line: bytes) -> Self:
        """The job that `to_line` wrote."""
        return cls(**json.loads(line))


def torchrun_arguments(job: WorkerJob, rendezvous: str, loopback: Loopback) -> list[str]:
    """Torchrun's options and the worker's command.

    Port 0 lets the system choose a free one, and the rendezvous has a name of its own: two runs on one
    host never meet.  torchrun restarts nothing: a new segment is the launcher's decision.
    """
    run, segment = job.run, job.segment
    return [
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


class Agent:
    """An agent process (`llmrun.launch.agent`): imports what workers need, then waits for a job.

    Ends with this process, however that ends, and when this object is dropped before it got a job.
    """

    def __init__(self, environment: Mapping[str, str], device: str | None = None) -> None:
        """Start the agent.  To be called from the main thread: the agent dies with the thread that forked it.

        environment: variables of the agent and of its workers.
        device: `cpu` or `cuda`: the agent runs a probe on it first.  None: it runs none.
        """
        self.environment = dict(environment)
        # Open as long as the agent waits.
        self._output, self._answer = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
        files = (self._output, self._answer)
        self._files_closer = weakref.finalize(self, close_all, files)
        probing = [] if device is None else [PROBE_MODULE, device]
        answering = {} if device is None else {ANSWER: str(self._answer.fileno())}
        with stop_signals_blocked():
            self.process = subprocess.Popen(
                [*child_command(AGENT_MODULE), str(os.getpid()), WORKER_MODULE, *probing],
                env={**self.environment, **answering},
                stdin=subprocess.PIPE,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                pass_fds=[self._answer.fileno()] if answering else [],
                start_new_session=True,  # Ctrl-C at a terminal is the launcher's to handle
            )
            self._finalizer = weakref.finalize(self, end_process, self.process)

    def end(self) -> None:
        """SIGKILL the agent, unless it has a job."""
        self._finalizer()
        self._files_closer()

    def probe(self, check: Callable[[], None]) -> Probe:
        """Wait for the probe's answer.

        check: called at every poll; what it raises ends the waiting.
        Raises RefusedError if the probe or the agent fails: a worker could not start here either.
        """
        for _ in range(int(PROBE_WITHIN_S / PROBE_POLL_S)):
            exit_code = self.process.poll()
            lines = os.fsdecode(contents(self._answer)).splitlines()
            document = json_object_in(lines)
            if "environment" in document:
                return Probe(document["environment"], document["recorded"], document["source_files"])
            if exit_code is not None:
                check()
                raise probe_failed(exit_code, document, lines, self.printed())
            check()
            time.sleep(PROBE_POLL_S)
        raise RefusedError(f"the probe of the workers' environment took longer than {PROBE_WITHIN_S} s")

    def printed(self) -> bytes:
        """What the agent and its probe printed so far."""
        return contents(self._output)

    def send(self, job: AgentJob) -> None:
        """Send a job with a status file; the agent stays this object's.  Raises BrokenPipeError if it has ended."""
        assert self.process.stdin is not None
        self.process.stdin.write(job.to_line())
        self.process.stdin.flush()

    def start(self, job: AgentJob) -> bool:
        """Send the job; from then on the agent is the caller's to end.  False if the agent has ended."""
        assert self.process.stdin is not None
        try:
            with self.process.stdin as pipe:
                pipe.write(job.to_line())
        except BrokenPipeError:
            return False
        self._finalizer.detach()
        self._files_closer()
        return True


def end_process(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL a process and wait until it is gone."""
    process.kill()
    process.wait()
    if process.stdin is not None:
        with suppress(OSError):
            process.stdin.close()


def close_all(files: Iterable[IO[bytes]]) -> None:
    """Close files."""
    for file in files:
        file.close()


def contents(file: IO[bytes]) -> bytes:
    """All bytes of a file that another process writes, without moving the position that both share."""
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0)


def json_object_in(lines: list[str]) -> dict[str, Any]:
    """The JSON object on the last line; empty if there is none, or not yet."""
    try:
        found = json.loads(lines[-1])
    except (IndexError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def probe_failed(
    exit_code: int, document: Mapping[str, Any], lines: list[str], printed: bytes
) -> RefusedError:
    """The refusal of a probe without an answer, with the file in which it ended.

    document: what `boot.report` wrote; empty if the process ended before.
    lines: those of the answer file; the import recorder names each of the user's files there before it runs.
    """
    own_files = [line.removeprefix(EXECUTING) for line in lines if line.startswith(EXECUTING)]
    file = document.get("file") or (own_files[-1] if own_files else None)
    also = [f"{path} was imported, and belongs to no installed package" for path in own_files if path != file]
    return RefusedError(
        f"cannot start a worker here: the probe of its environment ended with exit code {exit_code}",
        where=file,
        caused_by=[*last_lines(printed), *also[-LAST_LINES:]],
    )


def last_lines(printed: bytes) -> list[str]:
    """The last lines of a process's output that are not blank."""
    return [line for line in printed.decode(errors="replace").splitlines() if line.strip()][-LAST_LINES:]


EXECUTING = "executing "
"""Begins a line of the import recorder's trail."""


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
    """SIGTERM to the workers of an agent; to nothing else that it started, nor to loader workers.

    agent: its PID.  A worker is a child whose command line names the worker's module; a fork has the agent's own, which
    does too.
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
    """All processes below `pid`, or only its children; none if it is gone."""
    try:
        return psutil.Process(pid).children(recursive=recursive)
    except psutil.NoSuchProcess:
        return []


class TorchrunBackend:
    """The backend of every real run: workers are forks of torchrun's agent.

    The agent that `probe` started keeps what it imported and waits; `start` gives it the job if the job has the same
    variables, and starts another one if not.
    """

    def __init__(self) -> None:
        self._waiting: Agent | None = None

    def probe(self, device: str, environment: Mapping[str, str], check: Callable[[], None]) -> Probe:
        """See `ProcessBackend.probe`.  To be called from the main thread."""
        self._end_waiting()
        agent = Agent(environment, device)
        try:
            found = agent.probe(check)
        except BaseException:
            agent.end()
            raise
        self._waiting = agent
        return found

    def describe_model(self, environment: Mapping[str, str], check: Callable[[], None]) -> dict[str, Any]:
        """See `ProcessBackend.describe_model`.  To be called from the main thread."""
        with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as output, stop_signals_blocked():
            process = subprocess.Popen(
                child_command(MODEL_FACTS_MODULE),
                env={**environment, ANSWER: str(answer.fileno())},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[answer.fileno()],
                start_new_session=True,
            )
            try:
                while process.poll() is None:
                    check()
                    time.sleep(PROBE_POLL_S)
            finally:
                end_process(process)
            document = json_object_in(os.fsdecode(contents(answer)).splitlines())
            if "facts" in document or "refused" in document:
                return document
            last = last_lines(contents(output))
            raise RefusedError(
                f"cannot construct the model: its process ended with exit code {process.returncode}",
                where=document.get("file"),
                caused_by=last,
            )

    def start(self, job: WorkerJob) -> TorchrunWorkers:
        """See `ProcessBackend.start`.  To be called from the main thread.

        Raises RefusedError if this machine has no loopback interface.
        """
        rendezvous = f"{job.segment}-{secrets.token_hex(16)}"  # not the run's name, which may be no UTF-8
        agent_job = AgentJob.of(job, rendezvous, find_loopback())
        with os.fdopen(open_to_append(job.run.torchrun_log(job.segment)), "ab") as log:
            agent = self._take_waiting(job.environment)
            if agent is not None:
                log.write(agent.printed())
            if agent is None or not agent.start(agent_job):
                agent = Agent(job.environment)
                agent.start(agent_job)
        return TorchrunWorkers(agent.process)

    def _take_waiting(self, environment: Mapping[str, str]) -> Agent | None:
        """The waiting agent if it lives and has these variables; one with others is ended."""
        agent, self._waiting = self._waiting, None
        if agent is not None and (agent.environment != environment or agent.process.poll() is not None):
            agent.end()
            return None
        return agent

    def _end_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.end()
            self._waiting = None


class SharedAgentBackend(TorchrunBackend):
    """A backend for several segments in a row: those with the same variables run in forks of one agent."""

    def __init__(self) -> None:
        super().__init__()
        self._shared: Agent | None = None

    def start(self, job: WorkerJob) -> "ForkedWorkers":  # type: ignore[override]
        """See `ProcessBackend.start`.  To be called from the main thread, when the workers before have ended."""
        agent = self._shared
        if agent is None or agent.environment != dict(job.environment) or agent.process.poll() is not None:
            self.close()
            agent = self._shared = Agent(job.environment)
        rendezvous = f"{job.segment}-{secrets.token_hex(16)}"
        status_file = job.run.segment_logs(job.segment) / "agent.json"
        agent_job = replace(AgentJob.of(job, rendezvous, find_loopback()), status_file=str(status_file))
        agent.send(agent_job)
        return ForkedWorkers(agent, status_file)

    def close(self) -> None:
        """End the agent and everything below it."""
        if self._shared is not None:
            kill_tree(self._shared.process.pid)
            self._shared.end()
            self._shared = None


class ForkedWorkers:
    """The processes of one job of an agent that runs several."""

    def __init__(self, agent: Agent, status_file: Path) -> None:
        self._agent, self._status_file = agent, status_file

    def _status(self, key: str) -> int | None:
        """A field of the status file; None before it is known."""
        if not self._status_file.exists():
            return None
        value = json.loads(self._status_file.read_text(encoding="utf-8"))[key]
        return None if value is None else int(value)

    def poll(self) -> int | None:
        """See `Workers.poll`."""
        ended = self._agent.process.poll()
        code = self._status("exit_code")
        return ended if code is None else code

    def terminate(self) -> None:
        """See `Workers.terminate`."""
        pid = self._status("pid")
        if pid is not None:
            ask_workers_to_stop(pid)

    def kill(self) -> None:
        """See `Workers.kill`.  The agent goes too if the job has not begun, so that it does not begin later."""
        if self.poll() is not None:
            return
        pid = self._status("pid")
        kill_tree(self._agent.process.pid if pid is None else pid)
        while self.poll() is None:
            time.sleep(PROBE_POLL_S)


def kill_tree(pid: int) -> None:
    """SIGKILL a process and all below it, and wait until those are gone."""
    below = descendants(pid)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    for process in below:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(below, timeout=GONE_WITHIN_S)
