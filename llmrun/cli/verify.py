"""`llmrun verify`: two runs compared, one run executed again, the module that made a difference, two groups."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from llmrun.cli import console
from llmrun.cli import verify_options as o

if TYPE_CHECKING:
    from llmrun.verify.report import Verdict


def verify(
    a: o.A = None,
    b: o.B = None,
    strict: o.Strict = False,
    from_step: o.FromStep = None,
    steps: o.Steps = None,
    D: o.Ranks = None,
    windows: o.Windows = None,
    seed: o.Seed = None,
    bisect: o.Bisect = False,
    data: o.Data = None,
    statistical: o.Statistical = False,
    baseline: o.Baseline = None,
    candidate: o.Candidate = None,
    margin: o.Margin = None,
    alpha: o.Alpha = 0.05,
    power: o.Power = 0.8,
    plot: o.Plot = None,
    runs_dir: o.RunsDir = "runs",
    as_json: o.AsJson = False,
) -> None:
    """Prove two runs bitwise equal, or name the first difference; prove one run by executing steps again.

    A and B are directories or names of runs, directories of checkpoints, or files of ledgers.  Runs of
    different length are compared over the steps that both have.  A run alone is executed again from a
    checkpoint, without writing into it; a checkpoint alone is compared with its own run.  Groups of runs with
    other seeds, or on other hardware, are compared by what they learn.
    """
    from llmrun.cli.statistical import GroupsAsked, verify_groups
    from llmrun.cli.verify_replay import ReplayRequest, bisect_runs, replay_run
    from llmrun.errors import InputError
    from llmrun.run.directory import find_run_or_path

    asked = ReplayRequest(from_step, steps, D, windows, seed, None if data is None else Path(data))
    groups = GroupsAsked(baseline or [], candidate or [], margin, alpha, power, plot)
    if statistical or groups.are_named:
        asked.check_for_comparison()
        verify_groups(groups, [word for word in (a, b) if word is not None], runs_dir, as_json)
        return
    groups.check_for_bits()
    if a is None:
        raise InputError(
            "there is nothing to verify",
            hints=[
                "`llmrun verify A B` compares two runs",
                "`llmrun verify RUN` executes steps of one again",
            ],
        )
    path_a = find_run_or_path(a, runs_dir)
    path_b = None if b is None else find_run_or_path(b, runs_dir)
    own_run = run_of_checkpoint(path_a) if path_b is None else None
    if strict and (bisect or (path_b is None and own_run is None)):
        raise InputError(
            "--strict is for the comparison of two: nothing here has a second length or fingerprint"
        )
    if bisect:
        asked.check_for_bisect(two_runs=path_b is not None)
        bisect_runs(path_a, path_b, asked, as_json)
    elif path_b is None and own_run is None:
        asked.check_for_replay()
        replay_run(path_a, asked, as_json)
    else:
        asked.check_for_comparison()
        compare(path_a, path_b or own_run or path_a, strict, as_json)


def run_of_checkpoint(path: Path) -> Path | None:
    """The run that a checkpoint's directory lies in; None for anything else."""
    from llmrun.run.directory import RunDirectory
    from llmrun.storage.checkpoint.layout import MANIFEST

    real = path.resolve().parent.parent
    as_typed = path.parent.parent
    run = RunDirectory(as_typed if as_typed.resolve() == real else real)
    return run.path if (path / MANIFEST).is_file() and run.ledger_file.is_file() else None


def compare(path_a: Path, path_b: Path, strict: bool, as_json: bool) -> None:
    """Two runs, checkpoints or ledgers."""
    from llmrun.cli.progress import byte_progress
    from llmrun.cli.verdict import show
    from llmrun.verify.compare_runs import verify_runs
    from llmrun.verify.render import lines_of

    with byte_progress("verifying checkpoint") as progress:
        verdict = verify_runs(path_a, path_b, strict, progress)
    if as_json:
        console.emit_json(verdict.as_json())
    else:
        show(lines_of(verdict))
    end_with(verdict)


def end_with(verdict: "Verdict") -> None:
    """Exit code 1 if the bits are not equal, 5 if nothing that tells them was compared."""
    from llmrun.errors import EXIT_DIFFERENT, EXIT_NOTHING_COMPARED

    if verdict.equal is None:
        raise typer.Exit(EXIT_NOTHING_COMPARED)
    if not verdict.equal:
        raise typer.Exit(EXIT_DIFFERENT)
