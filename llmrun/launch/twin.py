"""An earlier run of the same fingerprint: its ledger says what this run's must say."""

from collections.abc import Sequence
from pathlib import Path

from llmrun.errors import DamagedError, InputError, LlmrunError, RefusedError
from llmrun.launch.recorded import believed_record
from llmrun.ledger.reader import LedgerReader
from llmrun.provenance.fingerprint import Fingerprint, compare
from llmrun.run.directory import RunDirectory, runs_below
from llmrun.run.groups import find_run_from
from llmrun.run.record import RunRecord, read_record
from llmrun.text import command

KEY = "reproducibility.compare_with"
CHANGES_SHOWN = 6
AUTO_HINT = f"`--set {KEY}=auto` takes an earlier run that fits, or none"


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
        except (InputError, DamagedError):
            continue
        if is_twin(record, fingerprint):
            found.append((record.segments[-1].to_step or 0, run))
    furthest_first = sorted(found, key=lambda entry: entry[0], reverse=True)
    return next((run for _, run in furthest_first if has_sound_ledger(run)), None)


def named_twin(
    name: str, fingerprint: Fingerprint, apart_from: RunDirectory, bases: Sequence[Path]
) -> RunDirectory:
    """The run that `compare_with` names, which must be one that this run can be compared with.

    Raises InputError where it is not there, RefusedError where its bits need not be those of this run.
    """
    run = find_run_from(name, apart_from.path.resolve().parent, bases)
    if run.path.resolve() == apart_from.path.resolve():
        raise InputError(f"compare_with names this run itself, {run.name}", where=KEY, hints=[AUTO_HINT])
    record = believed_record(run)
    if record.fingerprint["digest"] != fingerprint.digest:
        raise another_fingerprint(run, Fingerprint.of_json(record.fingerprint), fingerprint)
    if not is_twin(record, fingerprint.digest):
        raise RefusedError(
            f"{run.name} is no run to compare with: {unfit(record)}", where=KEY, hints=[AUTO_HINT]
        )
    if not has_sound_ledger(run):
        raise RefusedError(
            f"the ledger of {run.name} does not hold: what it says would prove nothing",
            where=str(run.ledger_file),
            hints=[f"`{command('llmrun', 'verify', run.path, run.path)}` says more", AUTO_HINT],
        )
    return run


def another_fingerprint(run: RunDirectory, theirs: Fingerprint, ours: Fingerprint) -> RefusedError:
    """Why two runs need not have equal bits, field by field."""
    changes = compare(theirs, ours)
    lines = [f"{change.part}: {change}" for change in changes[:CHANGES_SHOWN]]
    if len(changes) > CHANGES_SHOWN:
        lines.append(f"and {len(changes) - CHANGES_SHOWN} more")
    return RefusedError(
        f"{run.name} has another fingerprint than this run: their bits need not be equal",
        where=KEY,
        caused_by=lines,
        hints=["make this run as that one was made", AUTO_HINT],
    )


def unfit(record: RunRecord) -> str:
    """Why a run of the right fingerprint is no twin."""
    last = record.last
    if last is None or last.why is None:
        return "it has not ended yet"
    if not last.to_step:
        return "it has no step"
    return "it went on under another fingerprint later"


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
