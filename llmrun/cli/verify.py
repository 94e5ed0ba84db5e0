"""`llmrun verify`: two runs, checkpoints or ledgers compared bit by bit."""

from pathlib import Path
from typing import Annotated

import typer


def verify(
    a: Annotated[str, typer.Argument(metavar="A", help="A run, a checkpoint, or a ledger.bin.")],
    b: Annotated[
        str | None,
        typer.Argument(
            metavar="B", help="What to compare it with; default for a checkpoint: the run that it lies in."
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Demand the same length and the same fingerprint too.")
    ] = False,
    runs_dir: Annotated[
        str, typer.Option("--runs-dir", metavar="DIR", help="Where names are looked up.")
    ] = "runs",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Prove two runs bitwise equal, or name the first difference.

    A and B are directories or names of runs, directories of checkpoints, or ledger files.  Runs of different length
    are compared over the steps that both have.  Nothing is executed: `llmrun replay` executes steps of one run again,
    `llmrun bisect` finds the module that made a difference, and `llmrun equivalence` compares groups of runs whose
    bits need not be equal.
    """
    from llmrun.cli.progress import byte_progress
    from llmrun.cli.verdict import end_with
    from llmrun.run.directory import find_run_or_path
    from llmrun.verify.compare_runs import verify_runs
    from llmrun.verify.render import lines_of

    path_a = find_run_or_path(a, runs_dir)
    path_b = run_around(path_a) if b is None else find_run_or_path(b, runs_dir)
    with byte_progress("verifying checkpoint") as progress:
        verdict = verify_runs(path_a, path_b, strict, progress)
    end_with(verdict, verdict.as_json(), lines_of(verdict), as_json=as_json)


def run_around(path: Path) -> Path:
    """The run that a checkpoint's directory lies in.  Raises InputError if `path` is not a checkpoint of a run."""
    from llmrun.errors import InputError
    from llmrun.run.directory import RunDirectory
    from llmrun.storage.checkpoint.layout import MANIFEST
    from llmrun.text import command

    real = path.resolve().parent.parent
    as_typed = path.parent.parent
    run = RunDirectory(as_typed if as_typed.resolve() == real else real)
    if not ((path / MANIFEST).is_file() and run.ledger_file.is_file()):
        raise InputError(
            f"missing argument B: {path} must be compared with a run, a checkpoint or a ledger",
            hints=[f"`{command('llmrun', 'replay', path)}` executes steps of one run again"],
        )
    return run.path
