"""`llmrun migrate`: carry a checkpoint across a change of architecture, by a script that maps tensors by name."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmrun.cli import console
from llmrun.text import command, counted, cut

if TYPE_CHECKING:
    from llmrun.migrate.new_run import Migrated


def migrate(
    source: Annotated[
        str, typer.Argument(metavar="CKPT", help="A checkpoint's directory, or a run: its newest sound one.")
    ],
    script: Annotated[
        str, typer.Option("--script", metavar="FILE", help="Python file with `def migrate(old, new)`.")
    ],
    config: Annotated[str, typer.Option("--config", metavar="FILE", help="Config of the new model (YAML).")],
    out: Annotated[str, typer.Option("--out", metavar="DIR", help="Directory of the new run.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a value of the config; repeatable."),
    ] = None,
    runs_dir: Annotated[
        str, typer.Option("--runs-dir", metavar="DIR", help="Where names are looked up.")
    ] = "runs",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Make a new run of a checkpoint, for a changed model.

    The script says what each tensor of the new model is made of (docs/migration.md); `llmrun resume DIR`
    then trains on from the checkpoint's step.  CKPT is only read.
    """
    from llmrun.cli.progress import byte_progress
    from llmrun.config.load import load_config
    from llmrun.launch.torchrun import TorchrunBackend
    from llmrun.migrate.new_run import MigrationRequest
    from llmrun.migrate.new_run import migrate as migrate_run
    from llmrun.run.directory import find_run_or_path

    loaded = load_config(Path(config), overrides or [])
    order = MigrationRequest(find_run_or_path(source, runs_dir), Path(script), loaded, Path(out))
    with (
        byte_progress("verifying checkpoint") as reading,
        byte_progress("writing checkpoint") as writing,
    ):
        migrated = migrate_run(order, TorchrunBackend(), console.note, reading, writing)
    if json:
        console.emit_json(
            {
                "run": str(migrated.run.path),
                "checkpoint": str(migrated.checkpoint),
                "migration": dict(migrated.migration),
            }
        )
        return
    for line in lines_of(migrated):
        console.out(console.printable(line))


def lines_of(migrated: "Migrated") -> list[str]:
    """What was made of what, and how to go on."""
    state, step = migrated.state, migrated.parent.step
    kept = len(state.tensors) - len(state.initialised) - len(state.mixed)
    lines = [
        f"run: {migrated.run.path}",
        (
            f"{counted(len(state.tensors), 'tensor')} from {migrated.parent.path} at step {step:,}: "
            f"{kept} carried over, {len(state.mixed)} old and new, {len(state.initialised)} newly initialised"
        ),
    ]
    lines += _named("newly initialised", state.initialised)
    lines += _named("old and new", state.mixed)
    lines += _named("carried over with moments of zero", state.without_moments)
    lines += _named("of the old model, left out", state.dropped)
    return [*lines, f"next: `{command('llmrun', 'resume', migrated.run.path)}` trains on from step {step:,}"]


NAMED_MAX = 6


def _named(what: str, names: list[str]) -> list[str]:
    """The names under their heading, cut after six."""
    if not names:
        return []
    return [f"  {what}:", *(f"    {name}" for name in cut(names, NAMED_MAX))]
