"""The reference run: an earlier run of the same fingerprint, whose ledger each step of this run is compared with."""

from collections.abc import Sequence
from pathlib import Path

from llmrun.errors import DamagedError, InputError, LlmrunError, Place, RefusedError
from llmrun.launch.options import Notify
from llmrun.launch.preflight import Preflight
from llmrun.provenance.fingerprint import Fingerprint, compare
from llmrun.run.directory import RunDirectory, runs_below
from llmrun.run.groups import find_run_from
from llmrun.run.history import read_record_or_refuse
from llmrun.run.record import RunRecord, Segment, read_record
from llmrun.storage.ledger.reader import LedgerReader
from llmrun.text import command, cut

KEY = "reproducibility.compare_with"
CHANGES_SHOWN = 6
AUTO_HINT = f"`--set {KEY}=auto` takes an earlier run that fits, or none"


def find_reference_run(
    run: RunDirectory,
    segments: Sequence[Segment],
    preflight: Preflight,
    bases: Sequence[Path],
    notify: Notify,
) -> RunDirectory | None:
    """The run that the config asks to compare with; None if it asks for none, or if this run cannot be compared.

    segments: the earlier ones of this run: all must have the fingerprint of this one.
    bases:    directories that a relative path may start from.
    Raises InputError or RefusedError if the config names a run that cannot be compared with.
    """
    settings, digest = preflight.resolved.config.reproducibility, preflight.fingerprint.digest
    wanted = settings.compare_with
    if wanted == "none" or not preflight.is_bitwise:
        return None
    is_uniform = all(segment.fingerprint == digest for segment in segments)
    if wanted == "auto":
        found = furthest_run(run.path.resolve().parent, digest, other_than=run) if is_uniform else None
    else:
        found = named_run(wanted, preflight.fingerprint, run, bases)
        if not is_uniform:
            notify(f"nothing is compared with {wanted}: earlier segments of this run had another fingerprint")
    if found is None or not is_uniform:
        return None
    consequence = ", and the first difference stops this run" if settings.on_difference == "stop" else ""
    notify(f"{found.name} has the same fingerprint: every step will be compared with it{consequence}")
    return found


def furthest_run(runs_dir: Path, fingerprint: str, other_than: RunDirectory) -> RunDirectory | None:
    """Of the ended runs below `runs_dir` with this fingerprint in all segments, the one with the most steps.

    Runs whose record cannot be read or whose ledger is damaged are skipped.
    """
    found: list[tuple[int, RunDirectory]] = []
    for run in runs_below(runs_dir):
        if run.path.resolve() == other_than.path.resolve():
            continue
        try:
            record = read_record(run.record_file)
        except (InputError, DamagedError):
            continue
        if why_not_comparable(record, fingerprint) is None:
            found.append((record.segments[-1].to_step or 0, run))
    furthest_first = sorted(found, key=lambda entry: entry[0], reverse=True)
    return next((run for _, run in furthest_first if has_sound_ledger(run)), None)


def named_run(
    name: str, fingerprint: Fingerprint, other_than: RunDirectory, bases: Sequence[Path]
) -> RunDirectory:
    """The run that `compare_with` names.

    Raises InputError if it is not there, RefusedError if its bits need not be those of this run.
    """
    run = find_run_from(name, other_than.path.resolve().parent, bases)
    if run.path.resolve() == other_than.path.resolve():
        raise InputError(
            f"{KEY} must name another run, got this run, {run.name}", where=Place(key=KEY), hints=[AUTO_HINT]
        )
    record = read_record_or_refuse(run)
    if record.fingerprint["digest"] != fingerprint.digest:
        raise another_fingerprint(run, Fingerprint.of_json(record.fingerprint), fingerprint)
    reason = why_not_comparable(record, fingerprint.digest)
    if reason is not None:
        raise RefusedError(
            f"cannot compare with {run.name}: {reason}", where=Place(key=KEY), hints=[AUTO_HINT]
        )
    if not has_sound_ledger(run):
        raise RefusedError(
            f"cannot compare with {run.name}: its ledger is damaged",
            where=str(run.ledger_file),
            hints=[f"`{command('llmrun', 'verify', run.path, run.path)}` shows the damage", AUTO_HINT],
        )
    return run


def why_not_comparable(record: RunRecord, fingerprint: str) -> str | None:
    """Why a run cannot be a reference; None if it has ended, has steps, and had this fingerprint in all segments."""
    last = record.last
    if last is None or last.why is None:
        return "it has not ended yet"
    if not last.to_step:
        return "it has no steps"
    if any(segment.fingerprint != fingerprint for segment in record.segments):
        return "not all of its segments have this fingerprint"
    return None


def has_sound_ledger(run: RunDirectory) -> bool:
    """Whether a run's ledger has records and its chain is intact."""
    try:
        ledger = LedgerReader(run.ledger_file)
        return ledger.n_records > 0 and ledger.verify_chain() is None
    except (OSError, LlmrunError):
        return False


def another_fingerprint(run: RunDirectory, theirs: Fingerprint, ours: Fingerprint) -> RefusedError:
    """The error for a reference run of another fingerprint, with the fields that differ."""
    changes = compare(theirs, ours)
    lines = cut([f"{change.part}: {change}" for change in changes], CHANGES_SHOWN)
    return RefusedError(
        f"{run.name} has another fingerprint than this run: their bits need not be equal",
        where=Place(key=KEY),
        caused_by=lines,
        hints=["start this run with the settings of that one", AUTO_HINT],
    )
