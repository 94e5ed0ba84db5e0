"""`llmrun resume`: continue a run from its newest sound checkpoint, or from another one."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmrun.cli import console
from llmrun.text import command as typed

if TYPE_CHECKING:
    from llmrun.launch.prepared_segment import NothingToDo, PreparedSegment
    from llmrun.launch.torchrun import ProcessBackend
    from llmrun.run.signals import LauncherStopRequest


def resume(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run's directory, or its name below --runs-dir.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Override a value of the run's config; a numeric one needs `--allow config`; repeatable.",
        ),
    ] = None,
    D: Annotated[
        int | None, typer.Option("--D", metavar="RANKS", help="Any D from 1 to V: the same bits.")
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="STEP|best", help="Start from this checkpoint; 0 starts from the beginning."
        ),
    ] = None,
    until: Annotated[
        int | None, typer.Option("--until", metavar="STEP", help="Stop with a checkpoint after this step.")
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            "--allow",
            metavar="KIND",
            help="Go on after a change of code, config, data or environment; repeatable.",
        ),
    ] = None,
    runs_dir: Annotated[
        str, typer.Option("--runs-dir", metavar="DIR", help="Where names are looked up.")
    ] = "runs",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document at the end.")] = False,
) -> None:
    """Continue a run from its newest sound checkpoint.

    Damaged checkpoints are named and skipped.  If code, config, data or environment changed, nothing starts
    until `--allow` names the kind of change.
    """
    from llmrun.cli.progress import byte_progress
    from llmrun.cli.running import run_prepared
    from llmrun.launch.options import LaunchContext, launch_options
    from llmrun.launch.resume import ResumeCommand, prepare_resume
    from llmrun.run.directory import find_run

    options = launch_options(overrides or [], allow or [], until, D, start)
    found = find_run(run, runs_dir)
    command = ResumeCommand(f"{typed('llmrun', 'resume', Path(run))}{options.as_typed()}")

    def prepare(backend: "ProcessBackend", stop: "LauncherStopRequest") -> "PreparedSegment | NothingToDo":
        with byte_progress("verifying checkpoint") as progress:
            return prepare_resume(
                found, options, command, LaunchContext(backend, stop, console.note, progress)
            )

    run_prepared(prepare, json)
