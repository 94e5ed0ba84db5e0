"""Messages between a launcher and its workers: two small JSON files.

logs/segment-NNN/orders.json          WorkerSpec, written once before the workers start
logs/segment-NNN/rank-R.outcome.json  Outcome, written by each worker at its end

Outcomes decide how a segment ended, never the exit code of a process: gloo may crash at exit.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self

from llmrun.run.directory import RunDirectory
from llmrun.storage.durable import replace_json, replace_reserved, reserve

SPEC_FORMAT = "llmrun-orders/1"
OUTCOME_FORMAT = "llmrun-outcome/1"
OUTCOME_BYTES = 16 * 1024

OutcomeKind = Literal["finished", "reached", "preempted", "failed"]

_KEYS_ON_DISK = {"reference_ledger": "twin_ledger", "warnings": "remarks"}
"""Fields whose JSON keys have another name, by which earlier versions wrote and read them."""


def _as_document(format_name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {"format": format_name, **{_KEYS_ON_DISK.get(name, name): value for name, value in values.items()}}


def _fields_of(cls: type[Any], path: Path, format_name: str) -> dict[str, Any]:
    """The fields of dataclass `cls` in a JSON file.  llmrun wrote it, so the format is asserted."""
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["format"] == format_name, (
        f"{path} has format {document['format']}, expected {format_name}"
    )
    return {field.name: document[_KEYS_ON_DISK.get(field.name, field.name)] for field in fields(cls)}


@dataclass(frozen=True)
class WorkerSpec:
    """All that a worker needs to know about one segment.

    segment:      1-based number.
    D:            ranks that share a step.
    from_step:    finished steps of the state that the segment starts from; 0 for initial weights.
    checkpoint:   directory name under checkpoints/ of that state, or its path elsewhere; None: initial weights.
    until_step:   the segment ends after this step: `--until`, or the last step of the run.
    fingerprint:  sha256 over `parts`, in hex.
    parts:        digest of each part of the fingerprint: config, data, code, environment.
    preimages:    of the parts that each worker computes itself and compares: code and environment; {} compares none.
    mapped_files: checksums of library files that the probe read, by path: `provenance.mapped.FileSum` as a list.
    config:       the full resolved config of this segment, dumped by alias.
    audit_tails:  file names in the run directory, or paths elsewhere, of the ledgers that hold recomputed steps,
                  longest first; one that agrees proves a step.  [] if a change was allowed.
    reference_ledger: path of the ledger of an earlier run of the same fingerprint, or None.
    data_path:    the dataset's directory, absolute.
    saves:        whether checkpoints are saved; False in a replay.
    compared:     paths of checkpoints that the state is compared with at their steps.
    traced:       whether the tensors that modules exchange are digested (`run.trace`).
    trace_against: path of an earlier trace; the tensor at the first difference is kept.
    trace_kept:   index of the trace entry whose tensor is kept.
    trace_only_between_modules: whether gradients inside the code of one module are left out of the trace.
    inspected:    whether the model is inspected before the first step (`run.inspection`); needs D = 1.
    killed_after: the rank ends by SIGKILL in the step after this one, when its checkpoint is committed.
    baseline:     whether the loss is watched against the run's baseline.json.
    token:        of the launcher's lock: a worker that finds another one in run.lock stops writing
                  (`run.lock.Fence`).  None: the lock is not checked.
    counts_work:  whether FLOPs and peak memory are written to work-count.json in the run's directory.
    """

    segment: int
    D: int
    from_step: int
    checkpoint: str | None
    until_step: int
    fingerprint: str
    parts: dict[str, str]
    config: dict[str, Any]
    audit_tails: list[str]
    reference_ledger: str | None
    data_path: str
    saves: bool = True
    compared: list[str] = field(default_factory=list)
    traced: bool = False
    trace_against: str | None = None
    trace_kept: int | None = None
    trace_only_between_modules: bool = False
    inspected: bool = False
    killed_after: int | None = None
    baseline: bool = False
    preimages: dict[str, Any] = field(default_factory=dict)
    mapped_files: dict[str, Any] = field(default_factory=dict)
    token: str | None = None
    counts_work: bool = False

    def write(self, path: Path) -> None:
        """Write the file durably.  Raises OSError."""
        replace_json(path, _as_document(SPEC_FORMAT, asdict(self)))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file that `write` wrote."""
        return cls(**_fields_of(cls, path, SPEC_FORMAT))


@dataclass(frozen=True)
class SegmentSettings:
    """The settings of a past segment: `config` and `data_path` of its WorkerSpec."""

    config: dict[str, Any]
    data_path: str


def read_segment_settings(path: Path) -> SegmentSettings | None:
    """The settings in a segment's orders.json; None if the file was removed or damaged, as users may do with logs."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["format"] != SPEC_FORMAT:
            return None
        return SegmentSettings(dict(document["config"]), str(document["data_path"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


@dataclass(frozen=True)
class Outcome:
    """How one rank ended.

    kind:          finished (the last step of the run), reached (until_step), preempted (stopped on request after
                   saving), failed.
    step:          finished steps of the state that the rank holds.
    error:         `LlmrunError.as_json()` of the failure, or None.
    proven_steps:  recomputed steps that were equal to an earlier ledger.
    checkpoint:    directory name of the last checkpoint that the rank knows to be committed.
    warnings:      for the user; none of them stopped the run.
    peak_memory_bytes: peak of the rank's memory on its device (on a CPU: on the host, counted since before the model
                   was built); None if unknown.
    loop_s:        seconds from the loop's first step until its last save was committed; None if the loop failed.
    consequence:   whether this rank failed only because another one did, so that it is never shown as the cause.
    """

    rank: int
    kind: OutcomeKind
    step: int
    error: dict[str, Any] | None = None
    proven_steps: int = 0
    checkpoint: str | None = None
    warnings: tuple[str, ...] = ()
    consequence: bool = False
    peak_memory_bytes: int | None = None
    loop_s: float | None = None

    def write(self, path: Path) -> None:
        """Write the file atomically and durably, into the room that `reserve` kept.  Raises OSError."""
        document = _as_document(OUTCOME_FORMAT, asdict(self))
        replace_reserved(path, json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")

    @staticmethod
    def reserve(path: Path) -> None:
        """Keep disk space for the outcome, so that it can be written on a full disk; best effort."""
        with suppress(OSError):
            reserve(path, OUTCOME_BYTES)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file that `write` wrote."""
        values = _fields_of(cls, path, OUTCOME_FORMAT)
        return cls(**{**values, "warnings": tuple(values["warnings"])})


def read_outcomes(run: RunDirectory, segment: int, D: int) -> list[Outcome]:
    """The outcomes of the ranks of a segment that have ended, by rank."""
    files = [run.outcome_file(segment, rank) for rank in range(D)]
    return [Outcome.read(file) for file in files if file.exists()]
