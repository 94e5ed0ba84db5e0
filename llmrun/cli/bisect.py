"""`llmrun bisect`: the module that made a difference."""

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_STEPS = 1


def bisect(
    a: Annotated[str, typer.Argument(metavar="A", help="A run's directory, or its name below --runs-dir.")],
    b: Annotated[
        str | None,
        typer.Argument(metavar="B", help="Another run; without it, a step of A is executed twice."),
    ] = None,
    from_step: Annotated[
        int | None,
        typer.Option(
            "--from",
            metavar="STEP",
            min=0,
            help="Without B: execute the steps after this one; default: the last checkpoint's.",
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", metavar="N", min=1, help="Without B: the number of steps; 1.")
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", metavar="DIR", help="The dataset, if it was moved.")
    ] = None,
    runs_dir: Annotated[
        str, typer.Option("--runs-dir", metavar="DIR", help="Where names are looked up.")
    ] = "runs",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Name the first module whose tensors differ in two executions of a step.

    With B, the first step at which A and B differ is executed under the settings of both.  Without B, a step of A is
    executed twice under its own settings: a difference shows a kernel that is not deterministic.
    """
    from llmrun.cli.replay_executor import replay_executor
    from llmrun.cli.verdict import end_with
    from llmrun.errors import InputError
    from llmrun.run.directory import find_run_or_path
    from llmrun.verify.replay.bisect import bisect_run, bisect_runs
    from llmrun.verify.replay.render import lines_of_bisection

    for option, value in (("--from", from_step), ("--steps", steps)):
        if b is not None and value is not None:
            raise InputError(
                f"{option} cannot be combined with B: the step is the first one at which A and B differ"
            )
    path_a = find_run_or_path(a, runs_dir)
    path_b = None if b is None else find_run_or_path(b, runs_dir)
    with replay_executor(data=None if data is None else Path(data)) as executor:
        if path_b is None:
            report = bisect_run(path_a, from_step, steps or DEFAULT_STEPS, executor)
        else:
            report = bisect_runs(path_a, path_b, executor)
    end_with(report.verdict, report.as_json(), lines_of_bisection(report), as_json=as_json)
