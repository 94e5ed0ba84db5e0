"""The provenance of one segment, collected once and written to its directory."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmrun.machine import host_facts
from llmrun.provenance.code import source_digest
from llmrun.provenance.git_state import GitState
from llmrun.provenance.packages import Packages
from llmrun.provenance.variables import variables_kept
from llmrun.storage.durable import (
    make_directories,
    replace_file,
    replace_json,
    replace_streamed,
    replace_text,
)

ENVIRONMENT_FORMAT = "llmrun-environment/1"


@dataclass(frozen=True)
class ProvenanceSnapshot:
    """Code, packages and environment of a segment.

    environment: the content of environment.json.
    sources:     the files of the user's own model, by import path.
    """

    git: GitState
    packages: Packages
    environment: Mapping[str, Any]
    sources: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def missing(self) -> tuple[str, ...]:
        """What could not be recorded and why, one sentence each."""
        return (*self.git.missing, *self.packages.missing)

    def write(self, directory: Path) -> None:
        """Write git.json, git.diff, pip-freeze.txt, environment.json and the model's sources durably."""
        make_directories(directory)
        replace_json(directory / "git.json", self.git.as_json())
        replace_streamed(directory / "git.diff", self.git.diff.blocks())
        replace_text(directory / "pip-freeze.txt", self.packages.text)
        replace_json(directory / "environment.json", dict(self.environment))
        for name, content in self.sources.items():
            path = directory / SOURCES / name
            make_directories(path.parent)
            replace_file(path, [content])


def take_snapshot(
    git: GitState,
    packages: Packages,
    digested: Mapping[str, Any],
    recorded: Mapping[str, Any],
    worker_environment: Mapping[str, str],
    source_files: Mapping[str, str],
) -> ProvenanceSnapshot:
    """The snapshot of a segment; see `environment_document`.  source_files: digests by import path."""
    document = environment_document(digested, recorded, worker_environment)
    return ProvenanceSnapshot(git, packages, document, own_sources(recorded, source_files))


SOURCES = "model"
"""Directory below a segment's provenance with the sources of the user's own model."""


def own_sources(recorded: Mapping[str, Any], source_files: Mapping[str, str]) -> dict[str, bytes]:
    """The content of the user's files that the probe has executed; without those that were changed since."""
    found: dict[str, bytes] = {}
    for name, path in recorded.get("own_files", {}).items():
        with suppress(OSError):
            content = Path(path).read_bytes()
            if source_digest(content) == source_files.get(name):
                found[name] = content
    return found


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
