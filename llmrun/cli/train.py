"""`llmrun train`: start a run from a config, or continue the one that `--run` names."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmrun.cli import console
from llmrun.text import command as typed

if TYPE_CHECKING:
    from llmrun.launch.prepared_segment import NothingToDo, PreparedSegment
    from llmrun.launch.torchrun import ProcessBackend
    from llmrun.run.signals import LauncherStopRequest


def train(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="Config file (YAML).")],
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Override a value, e.g. batch.GB_tok=1M; repeatable."
        ),
    ] = None,
    run: Annotated[
        str | None,
        typer.Option("--run", metavar="ID", help="Name of the run: started if new, continued if it exists."),
    ] = None,
    until: Annotated[
        int | None, typer.Option("--until", metavar="STEP", help="Stop with a checkpoint after this step.")
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            "--allow",
            metavar="KIND",
            help="With --run: go on after a change of code, config, data or environment; repeatable.",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document at the end.")] = False,
) -> None:
    """Start a run from a config, or continue it.

    Validates, plans, records where everything came from, starts one worker per rank and shows the run live.
    """
    from llmrun.cli.progress import byte_progress
    from llmrun.cli.running import run_prepared
    from llmrun.config.load import load_config
    from llmrun.launch.new_run import check_identity, prepare_fresh
    from llmrun.launch.options import LaunchContext, launch_options
    from llmrun.launch.resume import ResumeCommand, prepare_resume
    from llmrun.run.directory import RunDirectory

    options = launch_options(overrides or [], allow or [], until)
    loaded = load_config(Path(config), options.overrides)

    def prepare(backend: "ProcessBackend", stop: "LauncherStopRequest") -> "PreparedSegment | NothingToDo":
        if run is not None:
            check_identity(run)
            there = RunDirectory(Path(loaded.config.runs_dir) / run)
            if there.is_run:
                command = ResumeCommand(
                    f"{typed('llmrun', 'train', Path(config), '--run', run)}{options.as_typed()}", loaded
                )
                with byte_progress("verifying checkpoint") as progress:
                    return prepare_resume(
                        there, options, command, LaunchContext(backend, stop, console.note, progress)
                    )
        return prepare_fresh(loaded, run, options, LaunchContext(backend, stop, console.note))

    run_prepared(prepare, json)
