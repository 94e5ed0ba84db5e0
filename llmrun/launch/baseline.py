"""The noise band that a run is watched against, made of earlier runs before training starts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmrun.config.keys import shown_key
from llmrun.errors import InputError
from llmrun.launch.examine import Say, Subject
from llmrun.launch.recorded import believed_record
from llmrun.launch.unwritable import attempting
from llmrun.metrics.baseline import RUNS_MIN, Baseline, band_of
from llmrun.metrics.curves import first_equal_pair, read_curve
from llmrun.provenance.fingerprint import leaf_differences
from llmrun.run.directory import RunDirectory
from llmrun.run.groups import find_runs
from llmrun.run.record import RunRecord

KEY = "monitor.baseline"
SHOWN_MAX = 6


def baseline_for(
    subject: Subject, run: RunDirectory, bases: Sequence[Path], say: Say, kept: Path | None = None
) -> Baseline | None:
    """The baseline that the config asks for; None where it asks for none.

    run:   the run that will be watched, where it will lie: its parent holds the runs that are named.
    bases: directories that a relative path may start from.
    kept:  baseline.json of an earlier segment: taken as it is where it was made for the same words, so that the
           band stays what it was, and nothing of the baseline's runs is needed any more.
    Raises InputError where the runs are not there, too few, without metrics, or of another batch size.
    """
    asked = subject.resolved.config.monitor.baseline
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
            f"{KEY} names {count}: a band needs at least {RUNS_MIN}, five or more make it a useful one",
            where=KEY,
            hints=[f"`--set '{KEY}=[RUN, RUN, …]'`, or a pattern: `--set '{KEY}=[base-*]'`"],
        )
    records = [believed_record(found) for found in runs]
    check_batches(records, subject)
    for line in notes(records, subject):
        say(line)
    with attempting("read the metrics of the baseline's runs"):
        curves = curves_of(runs)
    baseline = Baseline(asked, tuple(record.identity for record in records), band_of(curves))
    band = baseline.band
    say(
        f"baseline: {band.n} runs, {band.steps:,} steps; the smoothed loss is watched against their noise band"
    )
    steps = subject.resolved.batch.steps
    if band.steps < steps:
        say(f"the shortest run of the baseline ends at step {band.steps:,}: later steps are not watched")
    return baseline


def curves_of(runs: Sequence[RunDirectory]) -> list[np.ndarray]:
    """Smoothed losses of all runs, each [steps] float64.  Raises InputError where two are equal or one has none."""
    curves = [read_curve(run.metrics_file).loss_smooth for run in runs]
    for run, curve in zip(runs, curves, strict=True):
        if not len(curve):
            raise InputError(f"{run.path} has no metrics yet", where=KEY, hints=["leave it out"])
    pair = first_equal_pair(curves)
    if pair is not None:
        raise InputError(
            f"{runs[pair[0]].path} and {runs[pair[1]].path} have equal losses: they are one draw, not two",
            where=KEY,
            hints=["the runs of a baseline differ in their seeds; leave one of the two out"],
        )
    return curves


def check_batches(records: Sequence[RunRecord], subject: Subject) -> None:
    """A step must be the same number of tokens everywhere.  Raises InputError."""
    GB_tok = subject.resolved.config.batch.gb_tok
    for record in records:
        found = record.config["batch"]["GB_tok"]
        if found != GB_tok:
            raise InputError(
                f"{record.identity} has GB_tok = {found:,}, this run {GB_tok:,}: their steps cannot be compared",
                where=KEY,
                hints=[f"leave it out of `{KEY}`"],
            )


def notes(records: Sequence[RunRecord], subject: Subject) -> list[str]:
    """What differs between the baseline's runs and this one beside the seed: it may be meant, or a mistake."""
    own = subject.fingerprint.preimages
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
    more = f" and {len(shown) - SHOWN_MAX} more" if len(shown) > SHOWN_MAX else ""
    return [f"this run and its baseline differ in {', '.join(shown[:SHOWN_MAX])}{more}"]
