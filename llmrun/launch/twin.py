"""An earlier run of the same fingerprint: its ledger says what this run's must say."""

from pathlib import Path

from llmrun.errors import InputError
from llmrun.run.directory import RunDirectory, runs_below
from llmrun.run.record import RunRecord, read_record


def find_twin(runs_dir: Path, fingerprint: str, apart_from: RunDirectory) -> RunDirectory | None:
    """The run below `runs_dir` with this fingerprint in all its segments that went furthest.

    Runs that are under way, damaged or of another version are passed over.
    """
    found: list[tuple[int, RunDirectory]] = []
    for run in runs_below(runs_dir):
        if run.path.resolve() == apart_from.path.resolve() or not run.ledger_file.is_file():
            continue
        try:
            record = read_record(run.record_file)
        except InputError:
            continue
        if is_twin(record, fingerprint):
            found.append((record.segments[-1].to_step or 0, run))
    return max(found, key=lambda entry: entry[0])[1] if found else None


def is_twin(record: RunRecord, fingerprint: str) -> bool:
    """Whether a run has steps, has ended, and never ran under another fingerprint."""
    last = record.last
    ended = last is not None and last.why is not None and (last.to_step or 0) > 0
    return ended and all(segment.fingerprint == fingerprint for segment in record.segments)
