"""`llmrun checkpoints`: list, check and prune what a run has saved."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmrun.cli import console
from llmrun.text import counted

if TYPE_CHECKING:
    from llmrun.storage.checkpoint.errors import Damage
    from llmrun.storage.checkpoint.listing import CheckpointRow

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
    from llmrun.run.directory import find_run_or_path
    from llmrun.storage.checkpoint.listing import find_checkpoints, leftovers, row_of
    from llmrun.text import format_bytes

    path = find_run_or_path(where, runs_dir)
    rows = [row for found in find_checkpoints(path) if (row := row_of(found)) is not None]
    if json:
        console.emit_json({"checkpoints": [row.as_json() for row in rows]})
        return
    console.out("    step           tokens       size  ranks    val_ppl  state")
    best_step = next((row.best_step for row in reversed(rows) if not row.damages), None)
    for row in rows:
        console.out(console.printable(_line(row, best_step)))
    total = format_bytes(sum(row.bytes or 0 for row in rows))
    console.note(
        f"{counted(len(rows), 'checkpoint')}, {total}; `llmrun checkpoints check` reads every byte"
        if rows
        else "no checkpoints yet"
    )
    for left in leftovers(path):
        console.note(console.printable(f"{left.name}: {format_bytes(left.bytes)}, {left.message}"))


def _line(row: "CheckpointRow", best_step: int | None) -> str:
    """One checkpoint as a line of the table; `-` for an unknown value."""
    from llmrun.text import format_bytes

    tokens = "-" if row.tokens is None else f"{row.tokens:,}"
    ranks = "-" if row.ranks is None else str(row.ranks)
    size = "-" if row.bytes is None else format_bytes(row.bytes)
    val_ppl = "-" if row.val_ppl is None else f"{row.val_ppl:.4g}"
    whole = "whole, best" if best_step is not None and row.step == best_step else "whole"
    state = f"damaged: {row.damages[0].file} {row.damages[0].message}" if row.damages else whole
    step = "-" if row.step is None else str(row.step)
    return f"{step:>8} {tokens:>16} {size:>10} {ranks:>6} {val_ppl:>10}  {state}"


def check(
    where: Where,
    step: Annotated[
        int | None, typer.Argument(metavar="STEP", help="Only the checkpoint of this step.")
    ] = None,
    runs_dir: RunsDir = "runs",
    json: AsJson = False,
) -> None:
    """Check every byte of a run's checkpoints against SHA256SUMS, the manifest and the ledger."""
    from llmrun.cli.progress import byte_progress
    from llmrun.run.directory import find_run_or_path
    from llmrun.run.record_check import record_check_for
    from llmrun.storage.checkpoint.listing import damages_of, find_checkpoints

    paths = _only(find_checkpoints(find_run_or_path(where, runs_dir)), step, where)
    found = {}
    with byte_progress("verifying checkpoint") as progress:
        for path in paths:
            of_one = damages_of(path, record_check_for(path), progress)
            if of_one is None:
                console.note(f"{path.name} was deleted by its run in the meantime")
                continue
            found[path] = of_one
            if not json:
                _print_damages(path, of_one)
    damages = [damage for of_one in found.values() for damage in of_one]
    if json:
        sound = [{"path": str(path), "sound": not of_one} for path, of_one in found.items()]
        console.emit_json({"checkpoints": sound, "damages": [damage.as_json() for damage in damages]})
    if damages:
        raise typer.Exit(1)


def _print_damages(path: Path, damages: "list[Damage]") -> None:
    """Print what was found in one checkpoint at once: the next one may take minutes."""
    console.out(console.printable(f"{path.name}  {'damaged' if damages else 'sound'}"))
    for damage in damages:
        console.out(console.printable(f"  {damage}"))


def _only(paths: list[Path], step: int | None, where: str) -> list[Path]:
    """The checkpoint of one step, or all of them.  Raises InputError if there is nothing to check."""
    from llmrun.errors import InputError
    from llmrun.storage.checkpoint.layout import step_name

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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be deleted.")] = False,
    runs_dir: RunsDir = "runs",
    json: AsJson = False,
) -> None:
    """Delete all checkpoints but the newest and the best, after the newest was read and found sound.

    The run must not be training.  Steps that its checkpoint.keep_every_steps keeps are kept here too.
    """
    from llmrun.launch.prune import prune_run
    from llmrun.run.directory import find_run
    from llmrun.storage.checkpoint.errors import CheckpointDamage

    pruned = prune_run(find_run(run, runs_dir), keep_last, console.note, dry_run=dry_run)
    if pruned.damages:
        raise CheckpointDamage(pruned.damages)
    for name in pruned.left:
        console.warn(
            f"checkpoints/{name} could not be removed yet: a file in it is in use or may not be removed",
            "it is not a checkpoint any more; the run's next save tries again, or remove it yourself",
        )
    if json:
        left = list(pruned.left)
        console.emit_json({"deleted": pruned.deleted, "kept": pruned.kept, "left": left, "dry_run": dry_run})
        return
    for step in pruned.deleted:
        console.out(f"{'would delete' if dry_run else 'deleted'} step {step}")
    console.out(f"kept {', '.join(map(str, pruned.kept)) or 'nothing: there are no checkpoints'}")
