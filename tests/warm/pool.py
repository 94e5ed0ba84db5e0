"""A `ProcessBackend` whose workers are forks of one warm process: the same work as under torchrun, without its start."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from itertools import count
from pathlib import Path

from llmrun.launch.torchrun import Probe, worker_environment

_PORTS = count()
SERVER = Path(__file__).with_name("server.py")


class Server:
    """The warm process."""

    def __init__(self) -> None:
        self._environment = worker_environment(os.environ, 1)
        self._process = subprocess.Popen(
            [sys.executable, str(SERVER)],
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, **request) -> dict:
        """One request, one answer."""
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def lacking(self, environment) -> dict[str, str]:
        """The variables of a job that differ from those that the process was started with."""
        return {k: v for k, v in environment.items() if self._environment.get(k) != v}

    def close(self) -> None:
        """End the process; its forks die with it."""
        self._process.kill()
        self._process.wait()


def free_port() -> int:
    """A port that no other test session takes: below the system's own range, a slice for each session."""
    slice_start = 20_000 + os.getpid() % 100 * 100
    while True:
        port = slice_start + next(_PORTS) % 100
        with socket.socket() as trial:
            if trial.connect_ex(("127.0.0.1", port)) != 0:
                return port


class PoolWorkers:
    """The ranks of one segment."""

    def __init__(self, server: Server, pids: list[int]) -> None:
        self.server, self.pids = server, pids

    def poll(self) -> int | None:
        """None while any rank lives; a rank that failed takes the others with it, as under torchrun."""
        codes = [self.server.ask(op="poll", pid=pid)["code"] for pid in self.pids]
        if any(codes):
            self.kill()
            return next(code for code in codes if code)
        return None if None in codes else 0

    def terminate(self) -> None:
        """SIGTERM to all ranks."""
        for pid in self.pids:
            os.kill(pid, signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL all ranks."""
        for pid in self.pids:
            self.server.ask(op="kill", pid=pid)


class PoolBackend:
    """Implements `llmrun.launch.torchrun.ProcessBackend`.

    mutation, arguments: a function of tests/warm/mutations.py that each rank calls before it works.
    kill_at: SIGKILL all ranks as soon as metrics.jsonl holds this many lines.
    """

    def __init__(self, server: Server, mutation: str | None = None, **arguments) -> None:
        self.server, self.mutation, self.arguments = server, mutation, arguments
        self.workers: PoolWorkers | None = None

    def probe(self, device, environment, check) -> Probe:
        """See `ProcessBackend.probe`."""
        with tempfile.NamedTemporaryFile() as file:
            lacking = self.server.lacking(environment)
            self.server.ask(op="look", device=device, environment=lacking, path=file.name)
            found = json.loads(Path(file.name).read_text())
        return Probe(found["environment"], found["recorded"], found["source_files"])

    def describe_model(self, environment, check) -> dict:
        """See `ProcessBackend.describe_model`."""
        with tempfile.NamedTemporaryFile() as file:
            self.server.ask(op="describe", environment=self.server.lacking(environment), path=file.name)
            return json.loads(Path(file.name).read_text())

    def start(self, job) -> PoolWorkers:
        """See `ProcessBackend.start`."""
        port = free_port()
        pids = [
            self.server.ask(
                op="start",
                run=str(job.run.path),
                segment=job.segment,
                rank=rank,
                mutation=self.mutation,
                arguments=self.arguments,
                directory=str(Path.cwd()),
                environment={
                    **self.server.lacking(job.environment),
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(port),
                },
            )["pid"]
            for rank in range(job.D)
        ]
        self.workers = PoolWorkers(self.server, pids)
        return self.workers


def dying(server: Server, step: int) -> PoolBackend:
    """A backend whose ranks SIGKILL themselves when `step` steps are recorded, in the middle of the next."""
    return PoolBackend(server, "signal_itself", step=step, number=int(signal.SIGKILL))
