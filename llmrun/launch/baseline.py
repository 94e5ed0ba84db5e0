"""The noise band of a group of earlier runs, against which a run's smoothed loss is watched (`monitor.baseline`)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmrun.config.differences import leaf_differences
from llmrun.config.keys import shown_key
from llmrun.errors import InputError, Place
from llmrun.launch.options import Notify
from llmrun.launch.os_errors import attempting
from llmrun.launch.preflight import Preflight
from llmrun.run.directory import RunDirectory
from llmrun.run.groups import find_runs
from llmrun.run.history import read_record_or_refuse
from llmrun.run.record import RunRecord
from llmrun.storage.metrics.curves import first_equal_pair, read_curve
from llmrun.storage.metrics.loss_band import RUNS_MIN, Baseline, band_of

KEY = "monitor.baseline"
FIELDS_SHOWN = 6


def baseline_for(
    preflight: Preflight, run: RunDirectory, bases: Sequence[Path], notify: Notify, kept: Path | None = None
) -> Baseline | None:
    """The baseline that the config asks for, if it asks for one.

    run:   the run that will be watched, at its final place: the runs of the baseline are looked up beside it.
    bases: directories that a relative path may start from.
    kept:  baseline.json of an earlier segment: used unchanged if it was made for the same value of the key, so that
           the band does not change within a run and the baseline's runs are no longer needed.
    Raises InputError if the runs are not there, too few, without metrics, or of another batch size.
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
        raise InputError(
            f"{KEY} must name at least {RUNS_MIN} runs, got {len(runs)}",
            where=Place(key=KEY),
            hints=[
                f"`--set '{KEY}=[RUN, RUN, …]'`, or a pattern: `--set '{KEY}=[base-*]'`",
                "five runs or more make the band useful",
            ],
        )
    records = [read_record_or_refuse(found) for found in runs]
    check_batches(records, preflight)
    differing = differing_fields(records, preflight)
    if differing:
        more = f" and {len(differing) - FIELDS_SHOWN} more" if len(differing) > FIELDS_SHOWN else ""
        notify(f"this run and its baseline differ in {', '.join(differing[:FIELDS_SHOWN])}{more}")
    with attempting("read the metrics of the baseline's runs"):
        curves = read_curves(runs)
    baseline = Baseline(asked, tuple(record.identity for record in records), band_of(curves))
    band = baseline.band
    notify(
        f"baseline: {band.n} runs, {band.steps:,} steps; the smoothed loss is watched against their noise band"
    )
    if band.steps < preflight.resolved.batch.steps:
        notify(f"the shortest run of the baseline ends at step {band.steps:,}: later steps are not watched")
    return baseline


def read_curves(runs: Sequence[RunDirectory]) -> list[np.ndarray]:
    """Smoothed losses of all runs, each [steps] float64.  Raises InputError if two are equal or one is empty."""
    curves = [read_curve(run.metrics_file).loss_smooth for run in runs]
    for run, curve in zip(runs, curves, strict=True):
        if not len(curve):
            raise InputError(
                f"{run.path} has no metrics yet", where=Place(key=KEY), hints=[f"leave it out of `{KEY}`"]
            )
    pair = first_equal_pair(curves)
    if pair is not None:
        raise InputError(
            f"{runs[pair[0]].path} and {runs[pair[1]].path} have equal losses: they are one sample, not two",
            where=Place(key=KEY),
            hints=["runs of a baseline must differ in their seeds: leave one of the two out"],
        )
    return curves


def check_batches(records: Sequence[RunRecord], preflight: Preflight) -> None:
    """Check that a step is the same number of tokens in all runs.  Raises InputError."""
    GB_tok = preflight.resolved.config.batch.gb_tok
    for record in records:
        found = record.config["batch"]["GB_tok"]
        if found != GB_tok:
            raise InputError(
                f"{record.identity} has GB_tok = {found:,}, this run {GB_tok:,}: their steps cannot be compared",
                where=Place(key=KEY),
                hints=[f"leave it out of `{KEY}`"],
            )


def differing_fields(records: Sequence[RunRecord], preflight: Preflight) -> list[str]:
    """Numeric fields other than the seed in which this run differs from its baseline; `data` for another dataset."""
    own = preflight.fingerprint.preimages
    found: set[str] = set()
    for record in records:
        theirs: dict[str, Any] = record.fingerprint["preimages"]
        found |= {shown_key(key) for key, _, _ in leaf_differences(theirs["config"], own["config"])}
        if theirs["data"] != own["data"]:
            found.add("data")
    return sorted(found - {"seed"})
