"""run.json: identity, config, fingerprint and segments of a run (docs/run-directory.md).

Format `llmrun-run/1`.  Segments are listed in the order of their start, numbered from 1; each has the fingerprint it
ran under.  The preimages of the run's fingerprint are stored once, at the top; a segment that was allowed to differ
stores those that differ.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from llmrun.errors import DamagedError, InputError
from llmrun.provenance.fingerprint import PARTS, digest_of
from llmrun.storage.durable import replace_json

RECORD_FORMAT = "llmrun-run/1"

Kind = TypeVar("Kind")
Status = Literal["created", "running", "finished", "reached", "preempted", "failed", "killed"]
Ending = Literal["finished", "reached", "preempted", "failed", "killed"]


@dataclass(frozen=True)
class Segment:
    """One start or resume.

    segment:        1-based number.
    D:              ranks.
    from_step:      finished steps at its start.
    to_step:        finished steps at its end; None while it runs.
    started, ended: UTC, ISO 8601.
    why:            how it ended; None while it runs.
    allowed:        kinds of change that the user allowed by name.
    changes:        what differed at the start, one line each.
    overrides:      `--set` values that were in force on top of config.yaml.
    fingerprint:    digest and parts.
    preimages:      of the parts that differ from the run's own; empty if none does.
    git:            `GitState.identity` of the code: commit, root_commits, diff_sha256, dirty files, submodules, and
                    the reasons if not everything is known.
    host:           where it ran.
    proven_steps:   recomputed steps that were equal to an earlier ledger.
    checkpoint:     name of the checkpoint it started from.
    edits:          fields of config.yaml that were edited since the run was made, dotted key -> value.
    warnings:       that the user was shown; the key in run.json is `remarks`.
    """

    segment: int
    D: int
    from_step: int
    to_step: int | None
    started: str
    ended: str | None
    why: Ending | None
    allowed: list[str]
    changes: list[str]
    overrides: list[str]
    fingerprint: str
    parts: dict[str, str]
    preimages: dict[str, Any]
    git: dict[str, Any]
    host: str
    proven_steps: int
    checkpoint: str | None
    edits: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class RunRecord:
    """The content of run.json.

    identity:     the name that the run was made under; a moved directory keeps it.
    steps:        steps of the whole run.
    config:       the full resolved config as it was written to config.yaml.
    fingerprint:  {"digest", "parts", "preimages"} of the first segment.
    git:          as in a segment, of the code that the run was made from.
    working_directory: of `llmrun train`; relative paths of the config start there.
    """

    identity: str
    created: str
    status: Status
    steps: int
    config: dict[str, Any]
    fingerprint: dict[str, Any]
    git: dict[str, Any]
    working_directory: str
    segments: list[Segment] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Write run.json durably.  Raises OSError."""
        document = {"format": RECORD_FORMAT, **asdict(self)}
        for segment in document["segments"]:
            segment["remarks"] = segment.pop("warnings")
        replace_json(path, document)

    @property
    def last(self) -> Segment | None:
        """The newest segment."""
        return self.segments[-1] if self.segments else None

    def preimages_of(self, segment: Segment | None) -> dict[str, Any]:
        """The preimages of the fingerprint that a segment ran under; None: of the run itself."""
        own: dict[str, Any] = self.fingerprint["preimages"]
        return own if segment is None else {**own, **segment.preimages}

    def with_segment(self, segment: Segment) -> Self:
        """The record after `segment` has started."""
        assert segment.segment == len(self.segments) + 1
        return replace(self, status="running", segments=[*self.segments, segment])

    def closed(self, why: Ending, to_step: int, proven_steps: int = 0, warnings: Sequence[str] = ()) -> Self:
        """The record after its last segment has ended at `to_step`."""
        last = self.segments[-1]
        assert last.why is None, f"segment {last.segment} has ended already: {last.why}"
        ended = replace(
            last,
            why=why,
            to_step=to_step,
            proven_steps=proven_steps,
            warnings=list(warnings),
            ended=now_utc(),
        )
        return replace(self, status=why, segments=[*self.segments[:-1], ended])

    @property
    def saved_step(self) -> int:
        """The last step whose state was saved according to the record; 0 if none was.

        The last step of a finished run, else the end of the last segment unless it failed or was killed.
        """
        if self.status == "finished":
            return self.steps
        last = self.last
        saved = last is not None and last.why in ("finished", "reached", "preempted")
        return (last.to_step or 0) if last is not None and saved else 0

    @property
    def proven_steps(self) -> int:
        """Recomputed steps of all segments that were equal to an earlier ledger."""
        return sum(segment.proven_steps for segment in self.segments)


def now_utc() -> str:
    """The present moment, UTC, ISO 8601 with seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_record(path: Path, *, compared: bool = True) -> RunRecord:
    """The content of a run.json.

    compared: also compare what it states twice (`contradictions_of`); False only for a caller that reports the
    contradictions itself.
    Raises InputError if it is not a run record, DamagedError if it contradicts itself.
    """
    record = _read_record(path)
    found = contradictions_of(record) if compared else []
    if found:
        raise DamagedError(
            f"run.json contradicts itself: {found[0]}",
            where=str(path),
            caused_by=found[1:],
            hints=[DAMAGED_HINT],
        )
    return record


def contradictions_of(record: RunRecord) -> list[str]:
    """The facts that run.json states twice with different values, one line each.

    Compared are each preimage with the digest of its part, and the digests of the parts with the fingerprint, for the
    run and for each segment; the number of a segment with its place; `steps` with T_tokens and GB_tok of the last
    segment's config.
    """
    own = record.fingerprint
    lines = list(_of_fingerprint("the run", own.get("digest"), own.get("parts"), own.get("preimages")))
    if lines:
        return lines  # segments refer to these preimages
    for number, segment in enumerate(record.segments, start=1):
        if segment.segment != number:
            lines.append(f"segment {number} of the list has the number {segment.segment}")
        preimages = record.preimages_of(segment)
        owner = f"segment {segment.segment}"
        lines += _of_fingerprint(owner, segment.fingerprint, segment.parts, preimages)
    return lines or list(_of_steps(record.steps, record.preimages_of(record.last)["config"]))


def _of_fingerprint(owner: str, digest: Any, parts: Any, preimages: Any) -> Iterator[str]:
    """Contradictions within one fingerprint."""
    for name, value in (("parts", parts), ("preimages", preimages)):
        if not isinstance(value, Mapping) or set(value) != set(PARTS):
            yield f"the {name} of the fingerprint of {owner} must be {', '.join(PARTS)}"
            return
    for part in PARTS:
        found = digest_of(preimages[part])
        if found != parts[part]:
            yield (
                f"{owner} states {_short(parts[part])} for the part {part} of its fingerprint, "
                f"its preimage gives {_short(found)}"
            )
    found = digest_of(dict(parts))
    if found != digest:
        yield f"{owner} states the fingerprint {_short(digest)}, its parts give {_short(found)}"


def _of_steps(steps: Any, config: Any) -> Iterator[str]:
    """Contradictions between `steps` and the config in the fingerprint, if that has both sizes."""
    try:
        prescribed = config["T_tokens"] // config["batch"]["gb_tok"]
    except (KeyError, TypeError, ZeroDivisionError):
        return
    if steps != prescribed:
        yield f"the run has {steps} steps, T_tokens and GB_tok of its config give {prescribed}"


def _short(digest: Any) -> str:
    return f"{digest[:12]}…" if isinstance(digest, str) else str(digest)


def _read_record(path: Path) -> RunRecord:
    """The record in a file, unchecked.  Raises InputError if it is not one."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON", caused_by=[str(error)], hints=[DAMAGED_HINT]) from error
    found = document.get("format") if isinstance(document, dict) else None
    if found != RECORD_FORMAT:
        raise InputError(f"{path}: unsupported run record format {found} (expected {RECORD_FORMAT})")
    try:
        segments = [_read(Segment, _renamed(segment)) for segment in document["segments"]]
        return _read(RunRecord, {**document, "segments": segments})
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} lacks {error}", hints=[DAMAGED_HINT]) from error


DAMAGED_HINT = "restore run.json from a copy; checkpoints of the run are not affected"


def _renamed(segment: dict[str, Any]) -> dict[str, Any]:
    """A segment of run.json with the names of our fields; run.json keeps `remarks` for compatibility."""
    return {"warnings" if key == "remarks" else key: value for key, value in segment.items()}


def _read(cls: type[Kind], document: dict[str, Any]) -> Kind:
    """A dataclass from its JSON object; unknown keys, of later versions, are ignored."""
    return cls(
        **{
            entry.name: document[entry.name]
            for entry in fields(cls)  # type: ignore[arg-type]
            if entry.name in document or entry.default_factory is MISSING
        }
    )
