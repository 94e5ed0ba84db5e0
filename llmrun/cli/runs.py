"""`llmrun runs`: what ran, from what, and how two runs differ."""

from typing import TYPE_CHECKING, Annotated

import typer

from llmrun.cli import console

if TYPE_CHECKING:
    from llmrun.run.directory import RunDirectory
    from llmrun.run.overview import Overview

RunsDir = Annotated[str, typer.Option("--runs-dir", metavar="DIR", help="Directory of the runs.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Run = Annotated[str, typer.Argument(metavar="RUN", help="A run's directory, or its name below --runs-dir.")]


def list_(runs_dir: RunsDir = "runs", json: Json = False) -> None:
    """List all runs below a directory."""
    from pathlib import Path

    from llmrun.run.directory import runs_below
    from llmrun.run.overview import overview_of

    found = [overview_of(run, recorded_step) for run in runs_below(Path(runs_dir))]
    if json:
        console.emit_json([overview.as_json() for overview in found])
    elif not found:
        console.note(f"there are no runs below {runs_dir}; `llmrun train CONFIG` starts one")
    else:
        width = max(len(overview.name) for overview in found)
        console.out(f"{'run':<{width}}  {'status':<9}  {'step':>17}  D  segments  fingerprint")
        for overview in found:
            console.out(row(overview, width))


def recorded_step(run: "RunDirectory") -> int | None:
    """The last step in a run's metrics, else in its ledger; None if neither holds one."""
    from llmrun.errors import LlmrunError
    from llmrun.storage.metrics.jsonl import last_step

    step = last_step(run.metrics_file)
    if step is not None:
        return step
    from llmrun.storage.ledger.reader import LedgerReader

    try:
        return max(LedgerReader(run.ledger_file).last_step, 0)
    except (OSError, LlmrunError):
        return None


def row(overview: "Overview", width: int) -> str:
    """One line of the list."""
    if overview.problem is not None:
        return f"{overview.name:<{width}}  {'unread':<9}  {overview.problem}"
    step = f"{overview.step:,}/{overview.steps:,}"
    return (
        f"{overview.name:<{width}}  {overview.status:<9}  {step:>17}  {overview.D or '-'}  "
        f"{overview.segments:>8}  {overview.fingerprint[:12]}"
    )


def show(run: Run, runs_dir: RunsDir = "runs", json: Json = False) -> None:
    """Show one run: what it came from and each of its segments."""
    from dataclasses import asdict

    from llmrun.plan.render.forecast import forecast_lines
    from llmrun.run.directory import find_run
    from llmrun.run.forecast import read_forecasts
    from llmrun.run.lock import live_owner
    from llmrun.run.overview import lines_of
    from llmrun.run.record import read_record

    found = find_run(run, runs_dir)
    record, owner = read_record(found.record_file), live_owner(found.lock_file)
    forecasts = read_forecasts(found)
    if json:
        who = None if owner is None else owner.describe()
        judged = [asdict(forecast) for forecast in forecasts]
        console.emit_json({"run": str(found.path), "trained_by": who, **asdict(record), "forecasts": judged})
        return
    for line in lines_of(found, record, owner, recorded_step):
        console.out(line)
    for forecast in forecasts:
        for line in forecast_lines(forecast):
            console.out(f"segment {forecast.segment} {line}")


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="A run.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another run.")],
    runs_dir: RunsDir = "runs",
    json: Json = False,
) -> None:
    """Show how two runs differ in config, data, code and environment, as they were last trained.

    Changes listed under `git` and `operational` cannot change a bit by themselves.
    """
    from llmrun.run.difference import difference_of
    from llmrun.run.directory import find_run
    from llmrun.run.record import read_record

    found = [find_run(name, runs_dir) for name in (a, b)]
    difference = difference_of(*((run, read_record(run.record_file)) for run in found))
    if json:
        console.emit_json(difference.as_json())
        return
    if difference.equal:
        console.out(f"equal fingerprints: {difference.digests[0]}")
    for change in difference.changes:
        console.out(console.printable(f"{change.part}: {change}"))
