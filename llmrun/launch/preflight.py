"""Everything that a segment would run with, collected and checked before any file of a run is changed."""

import mmap
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llmrun.config.field_values import numeric_fields
from llmrun.config.load import LoadedConfig
from llmrun.config.resolve import MachineFacts, Resolved, resolve
from llmrun.config.schema import Config
from llmrun.core.windows import count_windows
from llmrun.data.check import START_TOKENS, contradicted_streams, within_start
from llmrun.data.location import locate_dataset
from llmrun.data.manifest import MANIFEST_NAME, DatasetManifest, facts, fingerprint_of, read_manifest
from llmrun.errors import SHARED_MEMORY_HINTS, ConfigError, Place, Problem, RefusedError
from llmrun.launch.devices import UsableGpus, refuse_unusable, usable_gpus
from llmrun.launch.model_facts import model_variable, with_model_facts
from llmrun.launch.options import Notify
from llmrun.launch.os_errors import attempting
from llmrun.launch.torchrun import Probe, ProcessBackend, worker_environment
from llmrun.machine import SHARED_MEMORY, shared_memory_bytes
from llmrun.plan.checkpoint_size import checkpoint_size, retention_in
from llmrun.plan.hardware import accelerator_named, read_rows
from llmrun.provenance.background import GitQuestion, wait_for
from llmrun.provenance.code import code_preimage
from llmrun.provenance.fingerprint import Fingerprint
from llmrun.provenance.packages import PackageQuestion
from llmrun.provenance.snapshot import ProvenanceSnapshot, take_snapshot
from llmrun.run.directory import RunDirectory
from llmrun.run.origin import Origin, with_origin
from llmrun.storage.checkpoint import space
from llmrun.text import listed


@dataclass(frozen=True)
class RunInputs:
    """A resolved config and the dataset that it names."""

    resolved: Resolved
    data_path: Path
    manifest: DatasetManifest

    @property
    def n_train_windows(self) -> int:
        """Windows of the training split."""
        return count_windows(self.manifest.splits["train"].tokens, self.resolved.batch.L_ctx)

    @property
    def n_train_samples(self) -> int:
        """Entries of the sample order that the whole run reads."""
        batch = self.resolved.batch
        return batch.steps * batch.M * batch.sequences


@dataclass(frozen=True)
class Preflight:
    """Everything that the fingerprint covers, as it is here and now.

    environment:      variables of the workers.
    source_files:     path -> sha256 of all source files that a worker imports.
    streams_compared: whether the dataset's stream digests were computed from its shards.
    """

    inputs: RunInputs
    environment: Mapping[str, str]
    fingerprint: Fingerprint
    snapshot: ProvenanceSnapshot
    source_files: Mapping[str, str]
    streams_compared: bool

    @property
    def resolved(self) -> Resolved:
        """The resolved config."""
        return self.inputs.resolved

    def with_origin(self, origin: Origin) -> "Preflight":
        """The preflight of a run that begins with a migrated state."""
        return replace(self, fingerprint=fingerprint_with_origin(self.fingerprint, origin))

    @property
    def is_bitwise(self) -> bool:
        """Whether equal fingerprints must give equal bits, so that a difference is a finding."""
        return self.resolved.config.reproducibility.mode == "bitwise"

    @property
    def warnings(self) -> list[str]:
        """What could not be recorded or was not compared."""
        missing = [*self.snapshot.missing, *model_notes(self.resolved)]
        if self.streams_compared or self.resolved.config.data.verify != "always":
            return missing
        unread = (
            f"the dataset has more than {START_TOKENS:,} tokens: its stream digests are not compared with its "
            f"shards at a start; `llmrun data check {self.inputs.data_path}` compares them"
        )
        return [*missing, unread]


def find_run_inputs(loaded: LoadedConfig, bases: Sequence[Path]) -> RunInputs:
    """Find a config's dataset and resolve the config with it and with this machine.

    bases: directories that a relative `data.path` may start from, in order.
    Raises ConfigError, InputError, or RefusedError if GPUs are there and cannot be used.
    """
    written = loaded.config.data.path
    if written is None:
        hint = "make one: `llmrun data prepare TEXT… --out DIR`, then `--set data.path=DIR`"
        problem = Problem(
            "data.path is not given: a run needs a dataset", "data.path", Place(loaded.source), hint
        )
        raise ConfigError(loaded.source, [problem])
    data_path = locate_dataset(
        [base / written for base in bases],
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
    return RunInputs(resolved, data_path, manifest)


def with_own_model(inputs: RunInputs, backend: ProcessBackend, check: Callable[[], None]) -> RunInputs:
    """`inputs` with the facts of the user's own model, if the config names one.  See `with_model_facts`."""
    return replace(inputs, resolved=with_model_facts(inputs.resolved, backend, check))


def model_notes(resolved: Resolved) -> list[str]:
    """What a user should know of a model of their own before it is trained."""
    facts = resolved.facts
    if facts is None:
        return []
    frozen, shadowed = listed(facts.frozen, NAMES_SHOWN), listed(facts.shadowed, NAMES_SHOWN)
    return [
        *([f"frozen parameters, which training does not change: {frozen}"] if facts.frozen else []),
        *(
            [
                f"not imported from {resolved.config.model.import_root}, as Python has modules of these names: {shadowed}"
            ]
            if facts.shadowed
            else []
        ),
    ]


NAMES_SHOWN = 8


def check_accelerator(loaded: LoadedConfig) -> None:
    """Check that the row of the hardware table for plan, MFU and forecasts exists.

    Raises InputError or ConfigError.
    """
    hardware = loaded.config.hardware
    if hardware.accelerator is not None:
        accelerator_named(hardware.accelerator, loaded.place_of("hardware.accelerator"), hardware.table)
    elif hardware.table is not None:
        read_rows(hardware.table)


PAGES_PER_LOADER_WORKER = 12
"""Shared memory for the semaphores of a loader worker's queues; tokens travel through pipes."""


def check_shared_memory(resolved: Resolved) -> None:
    """Check the room for what ranks and their loader workers share.  Raises RefusedError."""
    workers = resolved.config.data.num_workers
    if workers == 0:
        return
    needed = resolved.batch.D * workers * PAGES_PER_LOADER_WORKER * mmap.PAGESIZE
    try:
        free = shared_memory_bytes()
    except OSError as error:
        raise RefusedError(
            f"cannot use shared memory for data.num_workers = {workers}: {error.strerror}",
            where=str(SHARED_MEMORY),
            hints=SHARED_MEMORY_HINTS,
        ) from error
    if free < needed:
        raise RefusedError(
            f"shared memory must have {needed:,} bytes free for data.num_workers = {workers}, got {free:,}",
            where=str(SHARED_MEMORY),
            hints=SHARED_MEMORY_HINTS,
        )


def check_space(run: RunDirectory, resolved: Resolved, where: Path) -> None:
    """Check the room for the checkpoints that retention keeps, and that a commit works.

    where: the path that the RefusedError names.
    """
    size = checkpoint_size(resolved.model.n_parameters, resolved.batch.D)
    count = retention_in(resolved.config, resolved.batch.steps).count
    space.preflight(run.checkpoints, size.total, count, where)


def run_preflight(
    inputs: RunInputs,
    runs_dir: Path,
    backend: ProcessBackend,
    check: Callable[[], None],
    *,
    origin: Origin | None = None,
    notify: Notify | None = None,
) -> Preflight:
    """Probe a worker's environment, read the repository and the package list, and compare the data's streams.

    All run at once.
    check:  called while waiting; what it raises ends the preflight.
    origin: of a run that begins with a migrated state.
    notify: receives what is waited for if it takes long.
    Raises RefusedError if a worker could not start here, or if dataset.json contradicts its shards.
    """
    config = inputs.resolved.config
    compares_streams = config.data.verify == "always" and within_start(inputs.manifest)
    threads, ranks = config.hardware.threads_per_rank, inputs.resolved.batch.D
    environment = worker_environment(os.environ | model_variable(config), threads, ranks)
    with attempting("ask pip for the installed packages"):
        packages = PackageQuestion()
    git = GitQuestion(Path.cwd(), [runs_dir, inputs.data_path], spool=runs_dir)
    streams = StreamComparison(inputs) if compares_streams else None
    try:
        with attempting("start the probe of the workers' environment"):
            probe = backend.probe(config.hardware.device, environment, check)
        check_gpus_of_torch(inputs.resolved, probe)
        wait_for([git, packages], check, notify)
        state = git.answer().with_untracked(probe.source_files)
        snapshot = take_snapshot(
            state, packages.answer(), probe.environment, probe.recorded, environment, probe.source_files
        )
    finally:
        packages.withdraw()
        git.withdraw()
    if streams is not None:
        streams.refuse_contradictions(check)
    fingerprint = assemble_fingerprint(config, inputs.manifest, probe, origin)
    return Preflight(inputs, environment, fingerprint, snapshot, probe.source_files, compares_streams)


def assemble_fingerprint(
    config: Config, manifest: DatasetManifest, probe: Probe, origin: Origin | None = None
) -> Fingerprint:
    """The fingerprint of training a resolved config on a dataset with what a probe found.

    origin: of a run that begins with a migrated state, which decides bits.
    """
    fingerprint = Fingerprint(
        {
            "config": numeric_fields(config),
            "data": fingerprint_of(manifest),
            "code": code_preimage(probe.source_files),
            "environment": dict(probe.environment),
        }
    )
    return fingerprint if origin is None else fingerprint_with_origin(fingerprint, origin)


def fingerprint_with_origin(fingerprint: Fingerprint, origin: Origin) -> Fingerprint:
    """`fingerprint` with the migrated state that a run begins with in its config part."""
    config = with_origin(fingerprint.preimages["config"], origin)
    return Fingerprint({**fingerprint.preimages, "config": config})


class StreamComparison:
    """Compares a dataset's stream digests with its shards, in a thread, while other things are waited for."""

    def __init__(self, inputs: RunInputs) -> None:
        self._inputs = inputs
        self._contradictions: list[str] = []
        self._thread = threading.Thread(target=self._compare, daemon=True, name="streams")
        self._thread.start()

    def _compare(self) -> None:
        self._contradictions = contradicted_streams(self._inputs.data_path, self._inputs.manifest)

    def refuse_contradictions(self, check: Callable[[], None]) -> None:
        """Wait for the comparison.

        check: called while waiting; what it raises ends the wait.
        Raises RefusedError if a stream digest is not that of its shards.
        """
        while self._thread.is_alive():
            check()
            self._thread.join(0.1)
        if self._contradictions:
            first, *more = self._contradictions
            raise RefusedError(
                f"dataset.json contradicts its shards: {first}",
                where=str(self._inputs.data_path / MANIFEST_NAME),
                caused_by=more,
                hints=[
                    "make the dataset again with `llmrun data prepare`, or restore dataset.json from a copy"
                ],
            )


def check_gpus_of_torch(resolved: Resolved, probe: Probe) -> None:
    """Check that torch can use a GPU for each rank: a driver may list GPUs that this torch does not support.

    Raises RefusedError.
    """
    shown, D = probe.recorded.get("cuda_devices"), resolved.batch.D
    if resolved.config.hardware.device == "cuda" and shown is not None and shown < D:
        raise RefusedError(
            f"D = {D} ranks need {D} GPUs, torch {probe.environment.get('torch')} can use {shown}",
            where=Place(key="hardware.device"),
            hints=["install a torch that is built for this driver", "`--set hardware.device=cpu`"],
        )
