"""The provenance of one segment, put together once and written to its directory."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmrun.provenance.environment import environment_document
from llmrun.provenance.git import GitState
from llmrun.provenance.packages import Packages
from llmrun.storage.durable import make_directories, replace_json, replace_streamed, replace_text


@dataclass(frozen=True)
class ProvenanceSnapshot:
    """What a segment ran from, beside its config and data."""

    git: GitState
    packages: Packages
    environment: Mapping[str, Any]

    @property
    def missing(self) -> tuple[str, ...]:
        """What could not be put on record, in sentences."""
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
    """The snapshot of a segment whose workers get `worker_environment`."""
    return ProvenanceSnapshot(git, packages, environment_document(digested, recorded, worker_environment))
