"""Earlier runs that a run is compared with: one of the same fingerprint, and the baseline's noise band."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmrun.config.keys import shown_key
from llmrun.errors import DamagedError, InputError, LlmrunError, Place, RefusedError
from llmrun.launch.preflight import Notify, Preflight
from llmrun.launch.unwritable import attempting
from llmrun.provenance.fingerprint import Fingerprint, compare, leaf_differences
from llmrun.run.directory import RunDirectory, runs_below
from llmrun.run.groups import find_run_from, find_runs
from llmrun.run.history import believed_record
from llmrun.run.record import RunRecord, read_record
from llmrun.storage.ledger.reader import LedgerReader
from llmrun.storage.metrics.curves import first_equal_pair, read_curve
from llmrun.storage.metrics.loss_band import RUNS_MIN, Baseline, band_of
from llmrun.text import command, cut, listed

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
        raise InputError(
            f"compare_with names this run itself, {run.name}", where=Place(key=KEY), hints=[AUTO_HINT]
        )
    record = believed_record(run)
    if record.fingerprint["digest"] != fingerprint.digest:
        raise another_fingerprint(run, Fingerprint.of_json(record.fingerprint), fingerprint)
    if not is_twin(record, fingerprint.digest):
        raise RefusedError(
            f"{run.name} is no run to compare with: {unfit(record)}", where=Place(key=KEY), hints=[AUTO_HINT]
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
    lines = cut([f"{change.part}: {change}" for change in changes], CHANGES_SHOWN)
    return RefusedError(
        f"{run.name} has another fingerprint than this run: their bits need not be equal",
        where=Place(key=KEY),
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


BASELINE_KEY = "monitor.baseline"
SHOWN_MAX = 6


def baseline_for(
    preflight: Preflight, run: RunDirectory, bases: Sequence[Path], notify: Notify, kept: Path | None = None
) -> Baseline | None:
    """The baseline that the config asks for; None where it asks for none.

    run:   the run that will be watched, where it will lie: its parent holds the runs that are named.
    bases: directories that a relative path may start from.
    kept:  baseline.json of an earlier segment: taken as it is where it was made for the same words, so that the
           band stays what it was, and nothing of the baseline's runs is needed any more.
    Raises InputError where the runs are not there, too few, without metrics, or of another batch size.
    """
    asked = preflight.resolved.config.monitor.baseline
    if not asked:
        return None
    if kept is not None and kept.exists():
        earlier = Baseline.read(kept)
        if earlier.asked == asked:
            return earlier
    runs = [
        found
        for found in find_runs(asked, run.path.resolve().parent, bases)
        if found.path.resolve() != run.path.resolve()
    ]
    if len(runs) < RUNS_MIN:
        count = "only one run" if runs else "no run"
        raise InputError(
            f"{BASELINE_KEY} names {count}: a band needs at least {RUNS_MIN}, five or more make it a useful one",
            where=Place(key=BASELINE_KEY),
            hints=[
                f"`--set '{BASELINE_KEY}=[RUN, RUN, …]'`, or a pattern: `--set '{BASELINE_KEY}=[base-*]'`"
            ],
        )
    records = [believed_record(found) for found in runs]
    check_batches(records, preflight)
    for line in notes(records, preflight):
        notify(line)
    with attempting("read the metrics of the baseline's runs"):
        curves = curves_of(runs)
    baseline = Baseline(asked, tuple(record.identity for record in records), band_of(curves))
    band = baseline.band
    notify(
        f"baseline: {band.n} runs, {band.steps:,} steps; the smoothed loss is watched against their noise band"
    )
    steps = preflight.resolved.batch.steps
    if band.steps < steps:
        notify(f"the shortest run of the baseline ends at step {band.steps:,}: later steps are not watched")
    return baseline


def curves_of(runs: Sequence[RunDirectory]) -> list[np.ndarray]:
    """Smoothed losses of all runs, each [steps] float64.  Raises InputError where two are equal or one has none."""
    curves = [read_curve(run.metrics_file).loss_smooth for run in runs]
    for run, curve in zip(runs, curves, strict=True):
        if not len(curve):
            raise InputError(
                f"{run.path} has no metrics yet", where=Place(key=BASELINE_KEY), hints=["leave it out"]
            )
    pair = first_equal_pair(curves)
    if pair is not None:
        raise InputError(
            f"{runs[pair[0]].path} and {runs[pair[1]].path} have equal losses: they are one draw, not two",
            where=Place(key=BASELINE_KEY),
            hints=["the runs of a baseline differ in their seeds; leave one of the two out"],
        )
    return curves


def check_batches(records: Sequence[RunRecord], preflight: Preflight) -> None:
    """A step must be the same number of tokens everywhere.  Raises InputError."""
    GB_tok = preflight.resolved.config.batch.gb_tok
    for record in records:
        found = record.config["batch"]["GB_tok"]
        if found != GB_tok:
            raise InputError(
                f"{record.identity} has GB_tok = {found:,}, this run {GB_tok:,}: their steps cannot be compared",
                where=Place(key=BASELINE_KEY),
                hints=[f"leave it out of `{BASELINE_KEY}`"],
            )


def notes(records: Sequence[RunRecord], preflight: Preflight) -> list[str]:
    """What differs between the baseline's runs and this one beside the seed: it may be meant, or a mistake."""
    own = preflight.fingerprint.preimages
    found: set[str] = set()
    for record in records:
        theirs: dict[str, Any] = record.fingerprint["preimages"]
        keys = {shown_key(key) for key, _, _ in leaf_differences(theirs["config"], own["config"])}
        found |= keys - {"seed"}
        if theirs["data"] != own["data"]:
            found.add("data")
    if not found:
        return []
    shown = sorted(found)
    return [f"this run and its baseline differ in {listed(shown, SHOWN_MAX)}"]
