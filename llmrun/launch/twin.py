"""An earlier run of the same fingerprint: its ledger says what this run's must say."""

from pathlib import Path

from llmrun.errors import InputError, LlmrunError
from llmrun.ledger.reader import LedgerReader
from llmrun.run.directory import RunDirectory, runs_below
from llmrun.run.record import RunRecord, read_record


def find_twin(runs_dir: Path, fingerprint: str, apart_from: RunDirectory) -> RunDirectory | None:
    """The run below `runs_dir` with this fingerprint in all its segments that went furthest.

    Runs that are under way, damaged or of another version are passed over, as are those whose ledger does not
    hold: what it says would prove nothing.
    """
    found: list[tuple[int, RunDirectory]] = []
    for run in runs_below(runs_dir):
        if run.path.resolve() == apart_from.path.resolve():
            continue
        try:
            record = read_record(run.record_file)
        except InputError:
            continue
        if is_twin(record, fingerprint):
            found.append((record.segments[-1].to_step or 0, run))
    furthest_first = sorted(found, key=lambda entry: entry[0], reverse=True)
    return next((run for _, run in furthest_first if has_sound_ledger(run)), None)


def has_sound_ledger(run: RunDirectory) -> bool:
    """Whether a run's ledger can be read and all its records hold."""
    try:
        ledger = LedgerReader(run.ledger_file)
        return ledger.n_records > 0 and ledger.verify_chain() is None
    except (OSError, LlmrunError):
        return False


def is_twin(record: RunRecord, fingerprint: str) -> bool:
    """Whether a run has steps, has ended, and never ran under another fingerprint."""
    last = record.last
    ended = last is not None and last.why is not None and (last.to_step or 0) > 0
    return ended and all(segment.fingerprint == fingerprint for segment in record.segments)
