"""What a segment would run with: config, data, code, environment, put together before anything is changed."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llmrun.config.dump import numeric_fields
from llmrun.config.load import LoadedConfig
from llmrun.config.resolve import MachineFacts, Resolved, resolve
from llmrun.data.manifest import Manifest, facts, fingerprint_of, read_manifest, recorded_of
from llmrun.errors import ConfigError, InputError, Problem
from llmrun.launch.environment import worker_environment
from llmrun.launch.starter import Starter
from llmrun.machine import gpu_count
from llmrun.provenance.code import code_preimage
from llmrun.provenance.fingerprint import Fingerprint
from llmrun.provenance.git import read_git
from llmrun.provenance.packages import PackageQuestion
from llmrun.provenance.snapshot import Snapshot, take_snapshot
from llmrun.run.origin import Origin

Say = Callable[[str], None]
"""Tells the user one line while things are prepared."""


@dataclass(frozen=True)
class Material:
    """A resolved config and the dataset that it names."""

    resolved: Resolved
    data_path: Path
    manifest: Manifest


@dataclass(frozen=True)
class Subject:
    """Everything that a fingerprint speaks about, as it is here and now.

    environment:  variables of the workers.
    source_files: path -> sha256 of all source files that a worker imports.
    """

    material: Material
    environment: Mapping[str, str]
    fingerprint: Fingerprint
    snapshot: Snapshot
    source_files: Mapping[str, str]

    @property
    def resolved(self) -> Resolved:
        """The resolved config."""
        return self.material.resolved


def find_material(loaded: LoadedConfig, bases: Sequence[Path]) -> Material:
    """Resolve a config with its dataset and this machine.

    bases: directories that a relative `data.path` may start from, in order.
    Raises ConfigError or InputError.
    """
    written = loaded.config.data.path
    if written is None:
        says = "data.path is not given: a run needs a dataset"
        hint = "make one: `llmrun data prepare TEXT… --out DIR`, then `--set data.path=DIR`"
        raise ConfigError(loaded.source, [Problem(says, "data.path", loaded.source, hint)])
    data_path = next((base / written for base in bases if (base / written).exists()), bases[0] / written)
    where = loaded.locations.get("data.path", loaded.source)
    if not data_path.exists():
        raise InputError(
            f"there is no dataset at {written}",
            where=where if where.endswith("data.path") else f"{where}  data.path",
            hints=[
                "relative paths start at the working directory",
                "`--set data.path=DIR` names another place",
            ],
        )
    manifest = read_manifest(data_path)
    resolved = resolve(loaded, facts(manifest), MachineFacts(gpu_count()), for_training=True)
    return Material(resolved, data_path.resolve(), manifest)


def examine(
    material: Material,
    runs_dir: Path,
    starter: Starter,
    check: Callable[[], None],
    origin: Origin | None = None,
) -> Subject:
    """Ask a worker's own environment, the repository and pip, all at once.

    origin: what the run begins with, where it was migrated.
    check: called while waiting; what it raises ends the examination.
    Raises RefusedError where a worker could not start here.
    """
    config = material.resolved.config
    threads, ranks = config.hardware.threads_per_rank, material.resolved.batch.D
    environment = worker_environment(os.environ, threads, ranks)
    packages = PackageQuestion()
    try:
        probe = starter.probe(config.hardware.device, environment, check)
        git = read_git(Path.cwd(), [runs_dir, material.data_path])
        check()
        snapshot = take_snapshot(git, packages.answer(), probe.environment, probe.recorded, environment)
    finally:
        packages.withdraw()
    fingerprint = Fingerprint(
        {
            "config": numeric_fields(config),
            "data": fingerprint_of(material.manifest),
            "code": code_preimage(probe.source_files),
            "environment": dict(probe.environment),
        }
    )
    return with_origin(Subject(material, environment, fingerprint, snapshot, probe.source_files), origin)


def with_origin(subject: Subject, origin: Origin | None) -> Subject:
    """The subject of a run that begins with a migrated state: that decides bits, so it is in the fingerprint."""
    if origin is None:
        return subject
    preimages = dict(subject.fingerprint.preimages)
    preimages["config"] = {**preimages["config"], "origin": origin.as_json()}
    return replace(subject, fingerprint=Fingerprint(preimages))


def data_recorded(material: Material) -> dict[str, object]:
    """What is recorded beside the data's part of the fingerprint: shards and recipe."""
    return recorded_of(material.manifest)
