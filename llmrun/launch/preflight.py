"""What a segment would run with: config, data, code, environment, put together before anything is changed."""

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llmrun.config.dump import numeric_fields
from llmrun.config.load import LoadedConfig
from llmrun.config.resolve import MachineFacts, Resolved, resolve
from llmrun.data.manifest import (
    MANIFEST_NAME,
    DatasetManifest,
    facts,
    fingerprint_of,
    read_manifest,
    recorded_of,
)
from llmrun.data.stream_check import START_TOKENS, contradicted_streams, within_start
from llmrun.errors import ConfigError, InputError, Place, Problem, RefusedError
from llmrun.launch.devices import UsableGpus, refuse_unusable, usable_gpus
from llmrun.launch.torchrun import Probe, ProcessBackend, worker_environment
from llmrun.launch.unwritable import attempting
from llmrun.plan.hardware import accelerator_named, read_rows
from llmrun.provenance.code import code_preimage
from llmrun.provenance.fingerprint import Fingerprint
from llmrun.provenance.packages import PackageQuestion
from llmrun.provenance.questions import GitQuestion, wait_for
from llmrun.provenance.snapshot import ProvenanceSnapshot, take_snapshot
from llmrun.run.origin import Origin

Notify = Callable[[str], None]
"""Tells the user one line while things are prepared."""


@dataclass(frozen=True)
class RunInputs:
    """A resolved config and the dataset that it names."""

    resolved: Resolved
    data_path: Path
    manifest: DatasetManifest


@dataclass(frozen=True)
class Preflight:
    """Everything that a fingerprint speaks about, as it is here and now.

    environment:  variables of the workers.
    source_files: path -> sha256 of all source files that a worker imports.
    streams_compared: whether the dataset's stream digests were computed again from its shards.
    """

    inputs: RunInputs
    environment: Mapping[str, str]
    fingerprint: Fingerprint
    snapshot: ProvenanceSnapshot
    source_files: Mapping[str, str]
    streams_compared: bool

    @property
    def remarks(self) -> list[str]:
        """What the user should know before the segment starts, as sentences."""
        missing = list(self.snapshot.missing)
        if self.streams_compared or self.resolved.config.data.verify != "always":
            return missing
        unread = (
            f"the dataset has more than {START_TOKENS:,} tokens: its stream digests are not compared with its "
            f"shards at a start; `llmrun data check {self.inputs.data_path}` compares them"
        )
        return [*missing, unread]

    @property
    def resolved(self) -> Resolved:
        """The resolved config."""
        return self.inputs.resolved


def find_run_inputs(loaded: LoadedConfig, bases: Sequence[Path]) -> RunInputs:
    """Resolve a config with its dataset and this machine.

    bases: directories that a relative `data.path` may start from, in order.
    Raises ConfigError or InputError.
    """
    written = loaded.config.data.path
    if written is None:
        message = "data.path is not given: a run needs a dataset"
        hint = "make one: `llmrun data prepare TEXT… --out DIR`, then `--set data.path=DIR`"
        raise ConfigError(loaded.source, [Problem(message, "data.path", Place(loaded.source), hint)])
    data_path = next((base / written for base in bases if (base / written).exists()), bases[0] / written)
    if not data_path.exists():
        raise InputError(
            f"there is no dataset at {written}",
            where=loaded.place_of("data.path"),
            hints=[
                "relative paths start at the working directory",
                "`--set data.path=DIR` names another place",
            ],
        )
    with attempting("read the dataset", data_path):
        manifest = read_manifest(data_path)
    device = loaded.config.hardware.device
    gpus = UsableGpus(0) if device == "cpu" else usable_gpus()
    refuse_unusable(device, gpus)
    resolved = resolve(loaded, facts(manifest), MachineFacts(gpus.count), for_training=True)
    check_accelerator(loaded)
    return RunInputs(resolved, data_path.resolve(), manifest)


def check_accelerator(loaded: LoadedConfig) -> None:
    """The row of the hardware table that plan, MFU and forecasts use must be there, before anything is written.

    Raises InputError or ConfigError.
    """
    hardware = loaded.config.hardware
    if hardware.accelerator is not None:
        accelerator_named(hardware.accelerator, loaded.place_of("hardware.accelerator"), hardware.table)
    elif hardware.table is not None:
        read_rows(hardware.table)


def examine(
    inputs: RunInputs,
    runs_dir: Path,
    backend: ProcessBackend,
    check: Callable[[], None],
    origin: Origin | None = None,
    notify: Notify | None = None,
) -> Preflight:
    """Ask a worker's own environment, the repository and pip, all at once.

    origin: what the run begins with, if it was migrated.
    check: called while waiting; what it raises ends the examination.
    say: tells the user what is waited for, if it takes long.
    Raises RefusedError where a worker could not start here, or if dataset.json contradicts its shards.
    """
    config = inputs.resolved.config
    reads_streams = config.data.verify == "always" and within_start(inputs.manifest)
    threads, ranks = config.hardware.threads_per_rank, inputs.resolved.batch.D
    environment = worker_environment(os.environ, threads, ranks)
    with attempting("ask pip for the installed packages"):
        packages = PackageQuestion()
    git = GitQuestion(Path.cwd(), [runs_dir, inputs.data_path], spool=runs_dir)
    streams = StreamQuestion(inputs) if reads_streams else None
    try:
        with attempting("start the probe of the workers' environment"):
            probe = backend.probe(config.hardware.device, environment, check)
        check_torch_has(inputs.resolved, probe)
        wait_for([git, packages], check, notify)
        state = git.answer().with_untracked(probe.source_files)
        snapshot = take_snapshot(state, packages.answer(), probe.environment, probe.recorded, environment)
    finally:
        packages.withdraw()
        git.withdraw()
    if streams is not None:
        streams.refuse_contradictions(check)
    fingerprint = Fingerprint(
        {
            "config": numeric_fields(config),
            "data": fingerprint_of(inputs.manifest),
            "code": code_preimage(probe.source_files),
            "environment": dict(probe.environment),
        }
    )
    preflight = Preflight(inputs, environment, fingerprint, snapshot, probe.source_files, reads_streams)
    return with_origin(preflight, origin)


class StreamQuestion:
    """Reads a dataset on a thread of its own while the probe and pip are waited for."""

    def __init__(self, inputs: RunInputs) -> None:
        self._material = inputs
        self._lines: list[str] = []
        self._thread = threading.Thread(target=self._read, daemon=True, name="streams")
        self._thread.start()

    def _read(self) -> None:
        self._lines = contradicted_streams(self._material.data_path, self._material.manifest)

    def refuse_contradictions(self, check: Callable[[], None]) -> None:
        """Wait for the answer.

        check: called while waiting; what it raises ends the wait.
        Raises RefusedError if a stream digest is not that of its shards.
        """
        while self._thread.is_alive():
            check()
            self._thread.join(0.1)
        if self._lines:
            raise RefusedError(
                f"dataset.json contradicts its shards: {self._lines[0]}",
                where=str(self._material.data_path / MANIFEST_NAME),
                caused_by=self._lines[1:],
                hints=[
                    "make the dataset again with `llmrun data prepare`, or restore dataset.json from a copy"
                ],
            )


def check_torch_has(resolved: Resolved, probe: Probe) -> None:
    """On GPUs, torch must show one for each rank: a driver may list GPUs that torch cannot use.

    Raises RefusedError.
    """
    shown, D = probe.recorded.get("cuda_devices"), resolved.batch.D
    if resolved.config.hardware.device == "cuda" and shown is not None and shown < D:
        raise RefusedError(
            f"D = {D} ranks need {D} GPUs, torch {probe.environment.get('torch')} can use {shown}",
            where=Place(key="hardware.device"),
            hints=["install a torch that is built for this driver", "`--set hardware.device=cpu`"],
        )


def with_origin(preflight: Preflight, origin: Origin | None) -> Preflight:
    """The subject of a run that begins with a migrated state: that decides bits, so it is in the fingerprint."""
    if origin is None:
        return preflight
    preimages = dict(preflight.fingerprint.preimages)
    preimages["config"] = {**preimages["config"], "origin": origin.as_json()}
    return replace(preflight, fingerprint=Fingerprint(preimages))


def data_recorded(inputs: RunInputs) -> dict[str, object]:
    """What is recorded beside the data's part of the fingerprint: shards and recipe."""
    return recorded_of(inputs.manifest)
