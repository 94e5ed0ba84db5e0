"""What a launcher tells its workers, and what each worker answers: two small JSON files.

logs/segment-NNN/orders.json          WorkerSpec, written once before the workers start
logs/segment-NNN/rank-R.outcome.json  Outcome, written by each worker as its last deed

Outcomes decide how a segment ended, never the exit code of a process: gloo may crash at exit.
"""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self

from llmrun.storage.durable import replace_json, replace_reserved, reserve

ORDERS_FORMAT = "llmrun-orders/1"
OUTCOME_FORMAT = "llmrun-outcome/1"
OUTCOME_BYTES = 16 * 1024

OutcomeKind = Literal["finished", "reached", "preempted", "failed"]


def fields_of(cls: type[Any], path: Path, format_name: str) -> dict[str, Any]:
    """The fields of dataclass `cls` in the JSON file `path`.  Both sides are ours: asserts the format."""
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["format"] == format_name, f"{path} is {document['format']}, not {format_name}"
    return {field.name: document[field.name] for field in fields(cls)}


@dataclass(frozen=True)
class WorkerSpec:
    """All that a worker needs to know about one segment.

    segment:      number of the segment, 1-based.
    D:            ranks that share a step.
    from_step:    finished steps of the state that the segment starts from; 0 starts anew.
    checkpoint:   directory name under checkpoints/ that holds that state, or its path elsewhere; None starts
                  anew.
    until_step:   the segment ends after this step; the whole run's steps unless `--until` says less.
    fingerprint:  sha256 over `parts`, in hex.
    parts:        digest of each part of the fingerprint: config, data, code, environment.
    preimages:    what `parts` are digests of, of those that each worker computes itself: code and environment;
                  empty if nothing is checked.
    mapped_files: sums of library files that the probe read, by path: `llmrun.provenance.mapped_libraries.FileSum` as a list.
    config:       the full resolved config of this segment, dumped by alias.
    audit_tails:  file names in the run directory (or paths elsewhere) of the ledgers that hold recomputed
                  steps, longest first; a step is proven by any that agrees.  Empty where a change was allowed.
    twin_ledger:  path of the ledger of an earlier run of the same fingerprint; None where there is none.
    data_path:    the dataset's directory, absolute.
    saves:        whether checkpoints are saved; a replay needs none.
    compared:     paths of checkpoints whose bytes the state must have at their step.
    traced:       whether the tensors that modules exchange are digested (`llmrun.run.trace`); needs D = 1.
    trace_against: path of an earlier trace: where this one first differs, the tensor is kept.
    trace_kept:   number of the entry of the trace whose tensor is kept.
    baseline:     whether the loss is watched against the run's baseline.json.
    token:        of the lock that the launcher holds: a worker that finds another in run.lock writes nothing
                  more (`llmrun.run.lock.Fence`).  None: no lock is looked at.
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
    baseline: bool = False
    preimages: dict[str, Any] = field(default_factory=dict)
    mapped_files: dict[str, Any] = field(default_factory=dict)
    token: str | None = None

    def write(self, path: Path) -> None:
        """Write the orders durably."""
        replace_json(path, {"format": ORDERS_FORMAT, **asdict(self)})

    @classmethod
    def read(cls, path: Path) -> Self:
        """The orders in a file that `write` wrote."""
        return cls(**fields_of(cls, path, ORDERS_FORMAT))


@dataclass(frozen=True)
class SegmentSettings:
    """What a segment ran with, for those who come after it: `config` and `data_path` of its orders."""

    config: dict[str, Any]
    data_path: str


def settings_of_segment(path: Path) -> SegmentSettings | None:
    """The settings in a segment's orders; None where the file is gone or damaged: logs are the user's to delete."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["format"] != ORDERS_FORMAT:
            return None
        return SegmentSettings(dict(document["config"]), str(document["data_path"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


@dataclass(frozen=True)
class Outcome:
    """How one rank ended.

    kind:          finished (the whole run is done), reached (until_step), preempted (stopped on request
                   after saving), failed.
    step:          finished steps of the state that the rank holds.
    error:         `LlmrunError.as_json()` of what failed; None otherwise.
    proven_steps:  recomputed steps that were compared with an earlier ledger and were equal.
    checkpoint:    directory name of the last checkpoint that the rank knows to be committed.
    remarks:       sentences for the user that did not stop the run.
    peak_memory_bytes: most memory of its device that the rank held (on a CPU: of the host, since before the
                   model was built); None where unknown.
    loop_s:        seconds of the loop, from its first step until its last save was committed; None where it did
                   not come to an end of its own, as when it failed.
    consequence:   this rank failed only because it lost another one: never shown as the first cause.
    """

    rank: int
    kind: OutcomeKind
    step: int
    error: dict[str, Any] | None = None
    proven_steps: int = 0
    checkpoint: str | None = None
    remarks: tuple[str, ...] = ()
    consequence: bool = False
    peak_memory_bytes: int | None = None
    loop_s: float | None = None

    def write(self, path: Path) -> None:
        """Write the outcome durably: whoever sees the file sees all of it."""
        document = {"format": OUTCOME_FORMAT, **asdict(self)}
        replace_reserved(path, json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")

    @staticmethod
    def reserve(path: Path) -> None:
        """Keep room for the outcome, which on a full disk has to say that it is full."""
        with suppress(OSError):
            reserve(path, OUTCOME_BYTES)

    @classmethod
    def read(cls, path: Path) -> Self:
        """The outcome in a file that `write` wrote."""
        document = fields_of(cls, path, OUTCOME_FORMAT)
        return cls(**{**document, "remarks": tuple(document["remarks"])})
