"""A segment that is ready to start, and the other thing that preparing may find: nothing to do."""

import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmrun.config.resolve import Resolved
from llmrun.core.model.parameters import count_parameters
from llmrun.errors import SHARED_MEMORY_HINTS, InputError, Place, RefusedError
from llmrun.launch.devices import usable_gpus
from llmrun.launch.preflight import Notify, Preflight, RunInputs
from llmrun.launch.reference_run import find_twin, named_twin
from llmrun.machine import SHARED_MEMORY, host_name, shared_memory_bytes
from llmrun.plan.checkpoint_size import checkpoint_size, retention_in
from llmrun.provenance.fingerprint import Fingerprint, differing_preimages
from llmrun.run.directory import RunDirectory
from llmrun.run.lock import RunLock
from llmrun.run.record import RunRecord, Segment, now_utc
from llmrun.run.worker_spec import WorkerSpec
from llmrun.storage.checkpoint.space import preflight
from llmrun.storage.metrics.loss_band import Baseline


@dataclass(frozen=True)
class NothingToDo:
    """The run stands where it was asked to go."""

    run: RunDirectory
    record: RunRecord
    message: str


@dataclass(frozen=True)
class PreparedSegment:
    """A segment whose workers can start.

    lock:   held; whoever runs the segment releases it.
    record: as it is on disk, the segment not yet in it.
    """

    run: RunDirectory
    lock: RunLock
    record: RunRecord
    segment: Segment
    worker_spec: WorkerSpec
    preflight: Preflight


def check_devices(resolved: Resolved) -> None:
    """Each rank needs a GPU of its own.  Raises InputError."""
    if resolved.config.hardware.device != "cuda":
        return
    D, gpus = resolved.batch.D, usable_gpus().count
    if gpus < D:
        raise InputError(
            f"D = {D} ranks need {D} GPUs, this machine shows {gpus}",
            where=Place(key="batch.D"),
            hints=[
                f"any D from 1 to {max(gpus, 1)} has the same bits: `llmrun resume RUN --D {max(gpus, 1)}`"
            ],
        )


PAGES_PER_LOADER_WORKER = 12
"""Shared memory for the semaphores of a loader worker's queues; tokens travel through pipes."""


def check_shared_memory(resolved: Resolved) -> None:
    """Room for what ranks and their loader workers share.  Raises RefusedError."""
    workers = resolved.config.data.num_workers
    if workers == 0:
        return
    needs = resolved.batch.D * workers * PAGES_PER_LOADER_WORKER * mmap.PAGESIZE
    try:
        free = shared_memory_bytes()
    except OSError as error:
        raise RefusedError(
            f"cannot use shared memory for data.num_workers = {workers}: {error.strerror}",
            where=str(SHARED_MEMORY),
            hints=SHARED_MEMORY_HINTS,
        ) from error
    if free < needs:
        raise RefusedError(
            f"shared memory must have {needs:,} bytes free for data.num_workers = {workers}, got {free:,}",
            where=str(SHARED_MEMORY),
            hints=SHARED_MEMORY_HINTS,
        )


def check_space(run: RunDirectory, resolved: Resolved, where: Path) -> None:
    """Room for what retention keeps, and a trial commit.  Raises RefusedError, which names `where`."""
    size = checkpoint_size(count_parameters(resolved.shape).N_params_total, resolved.batch.D)
    preflight(run.checkpoints, size.total, retention_in(resolved.config, resolved.batch.steps).count, where)


def last_step(steps: int, until: int | None) -> int:
    """The step after which the segment ends.  Raises InputError where `--until` is beyond the run."""
    if until is not None and until > steps:
        raise InputError(
            f"--until {until} is beyond the run's last step, {steps:,}",
            hints=["leave `--until` out to run to the end"],
        )
    return until or steps


def open_segment(
    number: int,
    preflight: Preflight,
    of_run: Fingerprint,
    *,
    from_step: int,
    checkpoint: str | None,
    allowed: Sequence[str] = (),
    changes: Sequence[str] = (),
    overrides: Sequence[str] = (),
    edits: Mapping[str, Any] | None = None,
) -> Segment:
    """The record of a segment that is about to start."""
    return Segment(
        segment=number,
        D=preflight.resolved.batch.D,
        from_step=from_step,
        to_step=None,
        started=now_utc(),
        ended=None,
        why=None,
        allowed=list(allowed),
        changes=list(changes),
        overrides=list(overrides),
        fingerprint=preflight.fingerprint.digest,
        parts=preflight.fingerprint.parts,
        preimages=differing_preimages(of_run, preflight.fingerprint),
        git=preflight.snapshot.git.identity(),
        host=host_name(),
        proven_steps=0,
        checkpoint=checkpoint,
        edits=dict(edits or {}),
    )


def worker_spec_for(
    segment: Segment,
    preflight: Preflight,
    until_step: int,
    audit_tails: Sequence[str],
    reference_run: RunDirectory | None,
    baseline: Baseline | None,
    lock: RunLock,
) -> WorkerSpec:
    """What the workers of a segment are told."""
    return WorkerSpec(
        segment=segment.segment,
        D=segment.D,
        from_step=segment.from_step,
        checkpoint=segment.checkpoint,
        until_step=until_step,
        fingerprint=segment.fingerprint,
        parts=segment.parts,
        config=preflight.resolved.config.model_dump(mode="json", by_alias=True),
        audit_tails=list(audit_tails),
        reference_ledger=None if reference_run is None else str(reference_run.ledger_file.resolve()),
        data_path=str(preflight.inputs.data_path),
        baseline=baseline is not None,
        preimages=checked_by_workers(preflight.fingerprint),
        mapped_files=dict(preflight.snapshot.environment["recorded"].get("mapped_files", {})),
        token=lock.owner.token,
    )


def checked_by_workers(fingerprint: Fingerprint) -> dict[str, Any]:
    """The preimages of the parts that each worker computes itself, from what it has loaded."""
    return {part: dict(fingerprint.preimages[part]) for part in ("code", "environment")}


def promises_bits(preflight: Preflight) -> bool:
    """Whether equal fingerprints must give equal bits: only then is a difference a finding."""
    return preflight.resolved.config.reproducibility.mode == "bitwise"


def find_reference_run(
    run: RunDirectory,
    segments: Sequence[Segment],
    preflight: Preflight,
    bases: Sequence[Path],
    notify: Notify,
) -> RunDirectory | None:
    """The earlier run to compare with, where the config wants one and this run's history is comparable.

    segments: those that this run has had.  bases: directories that a relative path may start from.
    Raises InputError or RefusedError where the config names a run that cannot be compared with.
    """
    wanted, digest = preflight.resolved.config.reproducibility.compare_with, preflight.fingerprint.digest
    if wanted == "none" or not promises_bits(preflight):
        return None
    comparable = all(segment.fingerprint == digest for segment in segments)
    if wanted != "auto":
        reference_run: RunDirectory | None = named_twin(wanted, preflight.fingerprint, run, bases)
        if not comparable:
            notify(f"nothing is compared with {wanted}: earlier segments of this run had another fingerprint")
    else:
        reference_run = find_twin(run.path.resolve().parent, digest, run) if comparable else None
    if reference_run is None or not comparable:
        return None
    stops = preflight.resolved.config.reproducibility.on_difference == "stop"
    then = ", and the first difference stops this run" if stops else ""
    notify(f"{reference_run.name} has the same fingerprint: every step will be compared with it{then}")
    return reference_run


def windows_and_entries(inputs: RunInputs) -> tuple[int, int]:
    """Windows of the training split, and entries of the order that the whole run reads."""
    from llmrun.core.windows import count_windows

    batch = inputs.resolved.batch
    windows = count_windows(inputs.manifest.splits["train"].tokens, batch.L_ctx)
    return windows, batch.steps * batch.M * batch.sequences
