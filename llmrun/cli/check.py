"""`llmrun check`: whether a config and its model keep the promise, and what breaks it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from llmrun.cli import console

DEFAULT_STEPS = 2


def check(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="Config file (YAML).")],
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Override a value, e.g. batch.L_ctx=128; repeatable."
        ),
    ] = None,
    steps: Annotated[
        int, typer.Option("--steps", metavar="N", min=2, max=100, help="Steps of each execution.")
    ] = DEFAULT_STEPS,
    synthetic: Annotated[
        bool, typer.Option("--synthetic", help="Use random tokens instead of the config's dataset.")
    ] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the scratch directory and print its path.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Execute a few steps of a config in several ways that must give the same bits, and name what breaks it.

    Executes in a scratch directory, with a small batch; nothing is written to the config's runs_dir.  Names the first
    module, forward or backward, whose tensors differ.
    """
    from llmrun.check.checks import Check
    from llmrun.check.prepare import prepare
    from llmrun.check.render import lines_of_check
    from llmrun.cli.progress import CheckProgress
    from llmrun.cli.verdict import print_report
    from llmrun.config.load import load_config
    from llmrun.errors import EXIT_DIFFERENT
    from llmrun.launch.torchrun import SharedAgentBackend

    loaded = load_config(Path(config), overrides or [])
    progress = CheckProgress()
    backend = SharedAgentBackend()
    with scratch_directory(keep=keep) as directory:
        try:
            runs, report = prepare(
                loaded, steps, directory, backend, progress, synthetic=synthetic, kept=keep
            )
            report = Check(runs, steps, report, progress.execution).run()
        finally:
            backend.close()
            progress.close()
    print_report(report.as_json(), lines_of_check(report), as_json=as_json)
    if report.first is not None:
        raise typer.Exit(EXIT_DIFFERENT)


@contextmanager
def scratch_directory(*, keep: bool) -> Iterator[Path]:
    """A new directory, removed at the end unless it is to be kept, or an execution failed: its logs are there."""
    import tempfile

    from llmrun.errors import RunFailedError
    from llmrun.storage.durable import DISK

    scratch = Path(tempfile.mkdtemp(prefix="llmrun-check-")).resolve()
    has_failed = False
    try:
        yield scratch
    except RunFailedError:
        has_failed = True
        raise
    finally:
        if keep or has_failed:
            console.note(f"kept: {scratch}")
        else:
            DISK.remove_tree(scratch)
