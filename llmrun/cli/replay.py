"""`llmrun replay`: steps of one run executed again and compared with its ledger."""

from pathlib import Path
from typing import Annotated

import typer


def replay(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run's directory, or its name below --runs-dir.")
    ],
    from_step: Annotated[
        int | None,
        typer.Option(
            "--from",
            metavar="STEP",
            min=0,
            help="Execute the steps after this one; default: the last checkpoint's.",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option("--steps", metavar="N", min=1, help="Number of steps, or length of a window; 20."),
    ] = None,
    D: Annotated[
        int | None,
        typer.Option("--D", metavar="RANKS", min=1, help="Any D from 1 to V: the bits are the same."),
    ] = None,
    windows: Annotated[
        int | None,
        typer.Option("--windows", metavar="K", min=1, help="Draw K windows of N steps from the whole run."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", metavar="SEED", min=0, help="Seed of the draw, in addition to the run's chain; 0."
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", metavar="DIR", help="The run's dataset, if it was moved.")
    ] = None,
    runs_dir: Annotated[
        str, typer.Option("--runs-dir", metavar="DIR", help="Where names are looked up.")
    ] = "runs",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Execute steps of a run again and compare every record with its ledger.

    Steps are executed from a checkpoint of the run, without writing into the run.  With --windows the steps are drawn
    at random from the whole run, in a way that its author could not foresee.
    """
    from llmrun.cli.replay_executor import replay_executor
    from llmrun.cli.verdict import end_with
    from llmrun.errors import InputError
    from llmrun.run.directory import find_run_or_path
    from llmrun.verify.replay.audit import DEFAULT_STEPS, ReplayRequest, replay_run
    from llmrun.verify.replay.render import lines_of_replay

    if windows is None and seed is not None:
        raise InputError("--seed needs --windows", hints=["add `--windows K`"])
    if windows is not None and from_step is not None:
        raise InputError("--from cannot be combined with --windows, which are drawn from the whole run")
    request = ReplayRequest(from_step, steps or DEFAULT_STEPS, windows, seed or 0)
    with replay_executor(D, None if data is None else Path(data)) as executor:
        report = replay_run(find_run_or_path(run, runs_dir), request, executor)
    end_with(report.verdict, report.as_json(), lines_of_replay(report), as_json=as_json)
