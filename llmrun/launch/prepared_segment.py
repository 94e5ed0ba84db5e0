"""What preparing leads to: a segment that is ready to start, or nothing to do; and a segment's record and worker spec."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmrun.config.resolve import Resolved
from llmrun.launch.preflight import Preflight
from llmrun.machine import host_name
from llmrun.provenance.fingerprint import Fingerprint, differing_preimages
from llmrun.run.directory import RunDirectory
from llmrun.run.lock import RunLock
from llmrun.run.record import RunRecord, Segment, now_utc
from llmrun.run.worker_spec import WorkerSpec
from llmrun.storage.metrics.loss_band import Baseline

NO_FINGERPRINT = "0" * 64
"""Stands in the spec of workers whose fingerprint nobody needs."""


@dataclass(frozen=True)
class NothingToDo:
    """The run already is where it was asked to go."""

    run: RunDirectory
    record: RunRecord
    message: str


@dataclass(frozen=True)
class PreparedSegment:
    """A segment whose workers can start.

    lock:   held; `run_segment` releases it.
    record: as it is on disk, without this segment.
    """

    run: RunDirectory
    lock: RunLock
    record: RunRecord
    segment: Segment
    worker_spec: WorkerSpec
    preflight: Preflight


def new_segment(
    number: int,
    preflight: Preflight,
    run_fingerprint: Fingerprint,
    *,
    from_step: int,
    checkpoint: str | None,
    allowed: Sequence[str] = (),
    changes: Sequence[str] = (),
    overrides: Sequence[str] = (),
    edits: Mapping[str, Any] | None = None,
) -> Segment:
    """The record of a segment that is about to start.

    run_fingerprint: of run.json; the segment records the preimages in which its own differs.
    """
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
        preimages=differing_preimages(run_fingerprint, preflight.fingerprint),
        git=preflight.snapshot.git.identity(),
        host=host_name(),
        proven_steps=0,
        checkpoint=checkpoint,
        edits=dict(edits or {}),
    )


def segment_worker_spec(
    segment: Segment,
    preflight: Preflight,
    lock: RunLock,
    *,
    until_step: int,
    audit_tails: Sequence[str],
    reference_run: RunDirectory | None,
    baseline: Baseline | None,
) -> WorkerSpec:
    """The spec of the workers of a run's segment."""
    spec = make_worker_spec(
        preflight.resolved,
        preflight.inputs.data_path,
        preflight.fingerprint,
        segment=segment.segment,
        from_step=segment.from_step,
        checkpoint=segment.checkpoint,
        until_step=until_step,
        audit_tails=audit_tails,
        reference_ledger=None if reference_run is None else reference_run.ledger_file,
    )
    return replace(
        spec,
        baseline=baseline is not None,
        mapped_files=dict(preflight.snapshot.environment["recorded"].get("mapped_files", {})),
        token=lock.owner.token,
    )


def make_worker_spec(
    resolved: Resolved,
    data_path: Path,
    fingerprint: Fingerprint | None,
    *,
    segment: int,
    until_step: int,
    from_step: int = 0,
    checkpoint: str | None = None,
    audit_tails: Sequence[str] = (),
    reference_ledger: Path | None = None,
) -> WorkerSpec:
    """The spec of a segment's workers; what only some segments need is added with `dataclasses.replace`.

    fingerprint: each worker computes its parts again and compares; None: nothing is compared.
    """
    preimages = {} if fingerprint is None else fingerprint.preimages
    return WorkerSpec(
        segment=segment,
        D=resolved.batch.D,
        from_step=from_step,
        checkpoint=checkpoint,
        until_step=until_step,
        fingerprint=NO_FINGERPRINT if fingerprint is None else fingerprint.digest,
        parts={} if fingerprint is None else fingerprint.parts,
        config=resolved.config.model_dump(mode="json", by_alias=True),
        audit_tails=list(audit_tails),
        reference_ledger=None if reference_ledger is None else str(reference_ledger.resolve()),
        data_path=str(data_path),
        preimages={part: dict(preimage) for part, preimage in preimages.items()},
    )
