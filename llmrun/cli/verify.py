"""`llmrun verify A B`: equal bits, or the first place where they differ."""

from typing import Annotated

import typer


def verify(
    a: Annotated[str, typer.Argument(metavar="A", help="A run, a checkpoint, or a ledger.bin.")],
    b: Annotated[str, typer.Argument(metavar="B", help="What to compare it with.")],
    strict: Annotated[
        bool, typer.Option("--strict", help="Demand the same length and the same fingerprint too.")
    ] = False,
    runs_dir: Annotated[
        str, typer.Option("--runs-dir", metavar="DIR", help="Where names are looked up.")
    ] = "runs",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Prove two runs bitwise equal, or name the first difference.

    A and B are directories or names of runs, directories of checkpoints, or files of ledgers.  Runs of
    different length are compared over the steps that both have.
    """
    from llmrun.cli import console
    from llmrun.errors import EXIT_DIFFERENT
    from llmrun.run.directory import find_run_or_path
    from llmrun.verify.runs import verify_runs
    from llmrun.verify.words import lines_of

    verdict = verify_runs(find_run_or_path(a, runs_dir), find_run_or_path(b, runs_dir), strict)
    if as_json:
        console.emit_json(verdict.as_json())
    else:
        console.out("\n".join(console.printable(line) for line in lines_of(verdict)))
    if not verdict.equal:
        raise typer.Exit(EXIT_DIFFERENT)
