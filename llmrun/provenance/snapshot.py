"""The provenance of one segment, collected once and written to its directory."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmrun.machine import host_facts
from llmrun.provenance.git_state import GitState
from llmrun.provenance.packages import Packages
from llmrun.provenance.variables import variables_kept
from llmrun.storage.durable import make_directories, replace_json, replace_streamed, replace_text

ENVIRONMENT_FORMAT = "llmrun-environment/1"


@dataclass(frozen=True)
class ProvenanceSnapshot:
    """Code, packages and environment of a segment.  environment: the content of environment.json."""

    git: GitState
    packages: Packages
    environment: Mapping[str, Any]

    @property
    def missing(self) -> tuple[str, ...]:
        """What could not be recorded and why, one sentence each."""
        return (*self.git.missing, *self.packages.missing)

    def write(self, directory: Path) -> None:
        """Write git.json, git.diff, pip-freeze.txt and environment.json durably."""
        make_directories(directory)
        replace_json(directory / "git.json", self.git.as_json())
        replace_streamed(directory / "git.diff", self.git.diff.blocks())
        replace_text(directory / "pip-freeze.txt", self.packages.text)
        replace_json(directory / "environment.json", dict(self.environment))


def take_snapshot(
    git: GitState,
    packages: Packages,
    digested: Mapping[str, Any],
    recorded: Mapping[str, Any],
    worker_environment: Mapping[str, str],
) -> ProvenanceSnapshot:
    """The snapshot of a segment; see `environment_document`."""
    return ProvenanceSnapshot(git, packages, environment_document(digested, recorded, worker_environment))


def environment_document(
    digested: Mapping[str, Any],
    recorded: Mapping[str, Any],
    worker_environment: Mapping[str, str],
) -> dict[str, Any]:
    """The content of environment.json.

    digested:  the preimage of the fingerprint's part `environment`, from the probe.
    recorded:  what else the probe found: driver, NCCL, …
    worker_environment: the variables of a worker.
    """
    return {
        "format": ENVIRONMENT_FORMAT,
        "digested": dict(digested),
        "recorded": dict(recorded),
        "machine": host_facts(),
        "variables": variables_kept(worker_environment),
    }
