"""Summaries of runs: one row for `runs list`, one page for `runs show`."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from llmrun.errors import DamagedError, InputError
from llmrun.run.directory import RunDirectory
from llmrun.run.lock import Owner, live_owner
from llmrun.run.origin import origin_of
from llmrun.run.record import RunRecord, Segment, read_record


@dataclass(frozen=True)
class Overview:
    """One run in a list.

    status:  as in run.json, but `killed` if that says running and no process trains the run.
    step:    finished steps; if the last segment runs or was killed, the last step in its files.
    problem: the error if run.json cannot be read; the other fields are then empty.
    """

    name: str
    path: str
    status: str = "unread"
    created: str = ""
    step: int = 0
    steps: int = 0
    D: int | None = None
    segments: int = 0
    fingerprint: str = ""
    problem: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The overview as a JSON object."""
        return asdict(self)


def overview_of(run: RunDirectory, recorded: Callable[[RunDirectory], int | None]) -> Overview:
    """One run in a list; a damaged run.json is a field of it, not an error.

    recorded: reads the last step in a run's files; returns None if there is none.
    """
    try:
        record = read_record(run.record_file)
    except (InputError, DamagedError) as error:
        return Overview(run.name, str(run.path), problem=error.message)
    last = record.last
    return Overview(
        name=run.name,
        path=str(run.path),
        status=true_status(record, live_owner(run.lock_file)),
        created=record.created,
        step=first_step_of(run) if last is None else step_of(run, last, recorded),
        steps=record.steps,
        D=None if last is None else last.D,
        segments=len(record.segments),
        fingerprint=record.fingerprint["digest"] if last is None else last.fingerprint,
    )


def step_of(run: RunDirectory, last: Segment, recorded: Callable[[RunDirectory], int | None]) -> int:
    """Finished steps of a run whose last segment is `last`."""
    if last.to_step is not None:
        return last.to_step
    return max(recorded(run) or 0, last.from_step)


def first_step_of(run: RunDirectory) -> int:
    """The step at which a run begins: 0 unless it was migrated."""
    try:
        origin = origin_of(run)
    except InputError:
        return 0
    return 0 if origin is None else origin.step


def true_status(record: RunRecord, owner: Owner | None) -> str:
    """The status in run.json, corrected if the launcher was killed.  owner: of the run's lock."""
    return "killed" if record.status == "running" and owner is None else record.status


def lines_of(
    run: RunDirectory,
    record: RunRecord,
    owner: Owner | None,
    recorded: Callable[[RunDirectory], int | None],
) -> Iterator[str]:
    """The lines of one run's page.  recorded: as in `overview_of`."""
    yield f"{run.name}: {true_status(record, owner)}, {record.steps:,} steps, made {record.created}"
    if owner is not None:
        yield f"trained by {owner.describe()}"
    yield f"fingerprint {record.fingerprint['digest']}"
    for part, digest in record.fingerprint["parts"].items():
        yield f"  {part:<12} {digest[:16]}"
    if first_step_of(run):
        yield f"begins at step {first_step_of(run):,} with a migrated state: {run.migration_file}"
    commit = record.git["commit"]
    modules = record.git.get("submodules", {}).values()
    dirty = len(record.git["dirty"]) + sum(len(module["dirty"]) for module in modules)
    yield f"git commit {commit or 'none'}, {dirty} {'file' if dirty == 1 else 'files'} with uncommitted changes"
    for why in record.git.get("incomplete", ()):
        yield f"  not complete: {why}"
    for segment in record.segments:
        yield from segment_lines(segment, step_of(run, segment, recorded), is_trained=owner is not None)


def segment_lines(segment: Segment, to_step: int, *, is_trained: bool) -> Iterator[str]:
    """The lines of one segment."""
    to = f"{to_step:,}"
    state = segment.why or ("running" if is_trained else "killed")
    steps = "step" if segment.proven_steps == 1 else "steps"
    proven = f", {segment.proven_steps:,} {steps} proven" if segment.proven_steps else ""
    yield (
        f"segment {segment.segment}: steps {segment.from_step:,} to {to} on D = {segment.D} "
        f"({segment.host}), {state}{proven}"
    )
    for change in segment.changes:
        yield f"  {change}"
