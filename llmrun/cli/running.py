"""What `train` and `resume` share: the plan in short, the live view, the closing summary."""

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

import typer

from llmrun.cli import console, lost_output
from llmrun.errors import LlmrunError
from llmrun.text import command, counted

if TYPE_CHECKING:
    from llmrun.config.resolve import Resolved
    from llmrun.launch.prepared_segment import NothingToDo, PreparedSegment
    from llmrun.launch.segment import SegmentResult
    from llmrun.launch.torchrun import ProcessBackend
    from llmrun.plan.plan import Plan
    from llmrun.run.signals import LauncherStopRequest
    from llmrun.storage.metrics.jsonl import Row


def run_prepared(
    prepare: "Callable[[ProcessBackend, LauncherStopRequest], PreparedSegment | NothingToDo]", as_json: bool
) -> None:
    """Prepare a segment, print its run directory, run it, print how it ended.

    Ends with exit code 0, or raises the segment's error.  A screen that cannot be written changes neither.
    """
    with lost_output.keep_going():
        _run_prepared(prepare, as_json)


def _run_prepared(
    prepare: "Callable[[ProcessBackend, LauncherStopRequest], PreparedSegment | NothingToDo]", as_json: bool
) -> None:
    """`run_prepared` without its care for a lost screen."""
    from llmrun.launch.prepared_segment import NothingToDo
    from llmrun.launch.segment import run_segment
    from llmrun.launch.torchrun import TorchrunBackend
    from llmrun.run.signals import LauncherStopRequest

    backend = TorchrunBackend()
    with LauncherStopRequest() as stop:
        with stop.interrupting():
            ready = prepare(backend, stop)
        print_run = console.note if as_json else console.out
        if isinstance(ready, NothingToDo):
            print_run(f"run: {ready.run.path}")
            print_nothing_to_do(ready, as_json)
            return
        print_plan(ready.preflight.resolved)
        print_run(f"run: {ready.run.path}")
        console.note(segment_line(ready))
        display = LiveView(ready)
        try:
            ended = run_segment(ready, backend, stop, display, lost_output.troubles)
        finally:
            display.close()
    close(ready, ended, as_json, display.warned)


class LiveView:
    """The display as an observer of a segment."""

    def __init__(self, prepared: "PreparedSegment") -> None:
        from llmrun.cli.live_view import Display, RunFacts

        config = prepared.preflight.resolved.config
        facts = RunFacts(
            name=prepared.run.name,
            steps=prepared.worker_spec.until_step,
            device="GPU" if config.hardware.device == "cuda" else "CPU rank",
            grad_clip=config.optimizer.grad_clip,
        )
        self._display: Display = Display(facts, console.rich_console())

    def rows(self, rows: "Sequence[Row]") -> None:
        """Show new numbers."""
        self._display.add(rows)

    def checkpoint(self, step: int) -> None:
        """Show the newest checkpoint."""
        self._display.checkpoint_saved(step)

    def stopping(self, message: str) -> None:
        """Show that a stop was asked for."""
        self._display.notify(message)

    def warn(self, message: str) -> None:
        """Show a warning."""
        self._display.warn(message)

    @property
    def warned(self) -> Collection[str]:
        """The warnings that were shown."""
        return self._display.warned

    def close(self) -> None:
        """Leave the last numbers on the screen."""
        self._display.close()


def print_plan(resolved: "Resolved") -> None:
    """Print the plan in short, and what `llmrun plan` would warn of."""
    from llmrun.plan.plan import make_plan
    from llmrun.plan.render.notes import warning_texts

    try:
        plan = make_plan(resolved)
    except LlmrunError as error:  # the run is made: what it costs is for information
        console.warn(f"cannot show the plan: {error.message}")
        return
    for line in plan_in_short(plan):
        console.note(line)
    for message, hint in warning_texts(plan):
        console.warn(message, hint)


def plan_in_short(plan: "Plan") -> list[str]:
    """The plan in four lines."""
    from llmrun.plan.render.amounts import show_FLOPs
    from llmrun.plan.render.batch_diagram import equation
    from llmrun.plan.render.summary import describe
    from llmrun.text import format_bytes

    batch, memory = plan.batch, plan.memory
    FLOPs = "unknown" if plan.FLOPs is None else show_FLOPs(plan.FLOPs)
    without = "" if memory.device_bytes is not None else " without activations"
    return [
        f"plan: {describe(plan)}",
        f"  {equation(batch)}, added in V = {batch.V:,} lanes",
        (
            f"  {counted(batch.steps, 'step')} of the whole run, {batch.tokens_seen:,} tokens, "
            f"N_params {plan.parameters.N_params:,}, {FLOPs} FLOPs"
        ),
        (
            f"  a checkpoint is {format_bytes(plan.checkpoint.total)}, a rank needs "
            f"{format_bytes(memory.state_bytes)}{without} (`llmrun plan` shows more)"
        ),
    ]


def segment_line(prepared: "PreparedSegment") -> str:
    """What starts now."""
    segment, worker_spec = prepared.segment, prepared.worker_spec
    where = f"from step {segment.from_step:,}" if segment.from_step else "from the start"
    allowed = f", changes allowed: {', '.join(segment.allowed)}" if segment.allowed else ""
    return (
        f"segment {segment.segment}: {where} to step {worker_spec.until_step:,} on D = {segment.D}{allowed}\n"
        f"fingerprint {segment.fingerprint[:16]}…"
    )


def print_nothing_to_do(ready: "NothingToDo", as_json: bool) -> None:
    """The closing screen of a run that had nothing to do."""
    last = ready.record.last
    step = 0 if last is None or last.to_step is None else last.to_step
    if as_json:
        console.emit_json(closing_json(str(ready.run.path), ready.record, step, None))
        return
    console.out(ready.message)
    console.out(
        f"next: `{command('llmrun', 'verify', ready.run.path)} OTHER_RUN` proves two runs bitwise equal"
    )


def closing_json(path: str, record: Any, step: int, why: str | None) -> dict[str, Any]:
    """The closing screen for scripts."""
    last = record.last
    return {
        "run": path,
        "status": record.status,
        "why": why,
        "step": step,
        "steps": record.steps,
        "D": None if last is None else last.D,
        "from_step": None if last is None else last.from_step,
        "proven_steps": 0 if last is None else last.proven_steps,
        "proven_steps_total": record.proven_steps,
        "fingerprint": record.fingerprint["digest"] if last is None else last.fingerprint,
    }


def close(
    prepared: "PreparedSegment", ended: "SegmentResult", as_json: bool, warned: Collection[str]
) -> None:
    """The closing screen of a segment.  Raises its error if it was preempted or failed.

    warned: the remarks that were shown while it ran.
    """
    end, path = ended.end, str(prepared.run.path)
    for warning in end.warnings:
        if " ".join(warning.split()) not in warned:
            console.warn(warning)
    if as_json:
        console.emit_json(closing_json(path, ended.record, ended.step, end.why))
    if end.killed_by is not None:
        console.note(
            f"stopped at once at step {ended.step:,}; `{command('llmrun', 'resume', prepared.run.path)}` continues"
        )
        raise typer.Exit(128 + end.killed_by)
    error = ended.error(prepared.run)
    if error is not None:
        raise error
    if not as_json:
        for line in closing_lines(prepared, ended):
            console.out(line)


def closing_lines(prepared: "PreparedSegment", ended: "SegmentResult") -> list[str]:
    """What was reached, what was proven, where it lies, what to do next."""
    from llmrun.storage.checkpoint.layout import step_name, steps_in

    run, record = prepared.run, ended.record
    lines = [f"{ended.end.why}: step {ended.step:,} of {record.steps:,}"]
    if ended.end.proven_steps:
        proven = counted(ended.end.proven_steps, "step")
        lines.append(f"proven: {proven} equal to what an earlier ledger recorded")
    steps = steps_in(run.checkpoints)
    if steps:
        lines.append(f"newest checkpoint: {run.checkpoints / step_name(steps[-1])}")
    if prepared.preflight.resolved.config.data.verify == "never":
        lines.append("data: shards were not checked (data.verify: never)")
    lines.append(f"fingerprint: {prepared.segment.fingerprint}")
    if ended.end.why == "reached":
        lines.append(f"next: `{command('llmrun', 'resume', run.path)}` continues to step {record.steps:,}")
    else:
        lines.append(
            f"next: `{command('llmrun', 'verify', run.path)} OTHER_RUN` proves two runs bitwise equal"
        )
    return lines
