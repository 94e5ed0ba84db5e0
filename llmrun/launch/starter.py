"""The seam between launching and processes: a `Starter` looks at the machine and starts workers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from llmrun.run.directory import RunDirectory


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


class Starter(Protocol):
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
