"""`llmrun checkpoints`: list, check and prune what a run has saved."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmrun.cli import console

if TYPE_CHECKING:
    from llmrun.checkpoint.listing import Row

Where = Annotated[
    str,
    typer.Argument(
        metavar="RUN|DIR", help="A run's directory, its name below --runs-dir, or a checkpoint's directory."
    ),
]
Run = Annotated[str, typer.Argument(metavar="RUN", help="A run's directory, or its name below --runs-dir.")]
RunsDir = Annotated[str, typer.Option("--runs-dir", metavar="DIR", help="Where names are looked up.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def list_(where: Where, runs_dir: RunsDir = "runs", json: AsJson = False) -> None:
    """List a run's checkpoints: steps, sizes, val_ppl, whole or damaged."""
    from llmrun.checkpoint.listing import find_checkpoints, row_of
    from llmrun.run.directory import find_run_or_path

    rows = [row_of(path) for path in find_checkpoints(find_run_or_path(where, runs_dir))]
    if json:
        console.emit_json({"checkpoints": [row.as_json() for row in rows]})
        return
    console.out("    step           tokens       size  ranks    val_ppl  state")
    for row in rows:
        console.out(console.printable(_line(row)))
    console.note(
        f"{console.counted(len(rows), 'checkpoint')}; `llmrun checkpoints check` reads every byte"
        if rows
        else "no checkpoints yet"
    )


def _line(row: "Row") -> str:
    """One checkpoint as a line of the table; `-` where a value cannot be known."""
    from llmrun.checkpoint.space import shown_bytes

    tokens = "-" if row.tokens is None else f"{row.tokens:,}"
    ranks = "-" if row.ranks is None else str(row.ranks)
    val_ppl = "-" if row.val_ppl is None else f"{row.val_ppl:.4g}"
    state = f"damaged: {row.damages[0].file} {row.damages[0].says}" if row.damages else "whole"
    step = "-" if row.step is None else str(row.step)
    return f"{step:>8} {tokens:>16} {shown_bytes(row.bytes):>10} {ranks:>6} {val_ppl:>10}  {state}"


def check(
    where: Where,
    step: Annotated[
        int | None, typer.Argument(metavar="STEP", help="Only the checkpoint of this step.")
    ] = None,
    runs_dir: RunsDir = "runs",
    json: AsJson = False,
) -> None:
    """Check every byte of a run's checkpoints against SHA256SUMS and the manifest."""
    from llmrun.checkpoint.listing import find_checkpoints
    from llmrun.checkpoint.verification import verify_files
    from llmrun.run.directory import find_run_or_path

    paths = _only(find_checkpoints(find_run_or_path(where, runs_dir)), step, where)
    found = {path: verify_files(path) for path in paths}
    damages = [damage for of_one in found.values() for damage in of_one]
    if json:
        sound = [{"path": str(path), "sound": not of_one} for path, of_one in found.items()]
        console.emit_json({"checkpoints": sound, "damages": [damage.as_json() for damage in damages]})
    else:
        for path, of_one in found.items():
            console.out(console.printable(f"{path.name}  {'damaged' if of_one else 'sound'}"))
            for damage in of_one:
                console.out(console.printable(f"  {damage}"))
    if damages:
        raise typer.Exit(1)


def _only(paths: list[Path], step: int | None, where: str) -> list[Path]:
    """The checkpoint of one step, or all of them.  Raises InputError where there is nothing to check."""
    from llmrun.checkpoint.layout import step_name
    from llmrun.errors import InputError

    if not paths:
        raise InputError(f"{where} has no checkpoints")
    if step is None:
        return paths
    chosen = [path for path in paths if path.name == step_name(max(step, 0))]
    if not chosen:
        there = ", ".join(path.name for path in paths)
        raise InputError(f"{where} has no checkpoint of step {step}", hints=[f"there are {there}"])
    return chosen


def prune(
    run: Run,
    keep_last: Annotated[int, typer.Option("--keep-last", min=1, help="Newest checkpoints to keep.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
    runs_dir: RunsDir = "runs",
    json: AsJson = False,
) -> None:
    """Delete all checkpoints but the newest and the best, after the newest was read and found sound.

    The run must not be under way.  Steps that its checkpoint.keep_every_steps keeps are kept here too.
    """
    from llmrun.checkpoint.errors import CheckpointDamage
    from llmrun.launch.prune import prune_run
    from llmrun.run.directory import find_run

    pruned = prune_run(find_run(run, runs_dir), keep_last, console.note, dry_run=dry_run)
    if pruned.damages:
        raise CheckpointDamage(pruned.damages)
    if json:
        console.emit_json({"deleted": pruned.deleted, "kept": pruned.kept, "dry_run": dry_run})
        return
    for step in pruned.deleted:
        console.out(f"{'would delete' if dry_run else 'deleted'} step {step}")
    console.out(f"kept {', '.join(map(str, pruned.kept)) or 'nothing: there are no checkpoints'}")
