"""Resuming a run: exactly, or after the user has allowed a kind of change, or not at all.

Everything is checked first; the run's files are changed only when nothing is left that could refuse.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from llmrun.config.field_values import numeric_fields
from llmrun.config.load import LoadedConfig
from llmrun.config.resolve import Resolved, resolve_for_D, resolved_of, training_spec
from llmrun.config.schema import Config
from llmrun.core.schedule import learning_rate
from llmrun.errors import InputError, RefusedError
from llmrun.launch.baseline import baseline_for
from llmrun.launch.devices import check_devices
from llmrun.launch.new_run import write_order
from llmrun.launch.options import LaunchContext, LaunchOptions
from llmrun.launch.orphans import wait_for_orphans
from llmrun.launch.os_errors import os_error_as
from llmrun.launch.preflight import (
    RunInputs,
    check_shared_memory,
    check_space,
    find_run_inputs,
    run_preflight,
    with_own_model,
)
from llmrun.launch.prepared_segment import NothingToDo, PreparedSegment, new_segment, segment_worker_spec
from llmrun.launch.reference_run import find_reference_run
from llmrun.launch.refusals import (
    changed_fields,
    check_origin_of_checkpoint,
    find_changes,
    reference_segment,
    refuse_other_architecture,
    refuse_unless_allowed,
)
from llmrun.launch.resume_config import (
    ResumeConfig,
    config_from_file,
    config_of_run,
)
from llmrun.launch.rollback import check_ledger, roll_back, tails_to_audit
from llmrun.launch.segment import close_open_segment
from llmrun.launch.select_checkpoint import SegmentStart, select_start
from llmrun.launch.source_diff import source_diff
from llmrun.provenance.fingerprint import Fingerprint
from llmrun.run.directory import RunDirectory
from llmrun.run.history import config_of_segment, read_record_or_refuse
from llmrun.run.lock import RunLock
from llmrun.run.origin import origin_of
from llmrun.run.record import RunRecord, Segment


@dataclass(frozen=True)
class ResumeCommand:
    """The command line without `--allow`, for hints; config: CONFIG of `llmrun train CONFIG --run ID`."""

    text: str
    config: LoadedConfig | None = None


def prepare_resume(
    run: RunDirectory, options: LaunchOptions, command: ResumeCommand, context: LaunchContext
) -> PreparedSegment | NothingToDo:
    """The next segment of a run, ready to start, or why there is none.

    Raises InputError, ConfigError, RefusedError, PreemptedError; then the run is unchanged, except that a segment
    that a killed launcher left open is closed.
    """
    lock = RunLock.acquire(run.lock_file, notify=context.notify)
    try:
        if lock.taken_over is not None:
            context.notify(lock.taken_over)
        with os_error_as(RefusedError, run.path):
            wait_for_orphans(run, context.notify, context.stop.check)
            prepared = _prepare(run, lock, options.with_D_of_overrides(), command, context)
    except BaseException:
        lock.release()
        raise
    if isinstance(prepared, NothingToDo):
        lock.release()
    return prepared


@dataclass(frozen=True)
class ResumePoint:
    """Where a run continues, and with which settings.

    reference:  the segment whose settings the start belongs to; None if the run has had no segment.
    old_config: the full config that the start was made with.
    last_step:  the step after which the new segment ends.
    """

    record: RunRecord
    start: SegmentStart
    reference: Segment | None
    old_config: Mapping[str, Any]
    config: ResumeConfig
    inputs: RunInputs
    last_step: int


def find_resume_point(
    run: RunDirectory, options: LaunchOptions, command: ResumeCommand, context: LaunchContext
) -> ResumePoint | NothingToDo:
    """Select the checkpoint, then the config, then see whether any step is left.

    Raises InputError, ConfigError, RefusedError.
    """
    notify = context.notify
    record = close_open_segment(run, read_record_or_refuse(run), notify)
    start = select_start(run, options.start, notify, context.progress, record.saved_step)
    is_plain = options.start == "newest" and not options.overrides and not command.config
    if is_plain and record.status == "finished" and start.step == record.steps:
        return finished(run, record, start.step, record.steps)
    reference = reference_segment(record, start.step) if record.segments else None
    if command.config is None:
        config = config_of_run(run, record, reference, options, notify)
    else:
        config = config_from_file(run, record, options, command.config)
    inputs = with_own_model(resolve_inputs(record, config), context.backend, context.stop.check)
    old_config = config_of_segment(run, record, reference) or record.config
    steps = inputs.resolved.batch.steps
    last_step = options.last_step(steps)
    if start.step < last_step:
        return ResumePoint(record, start, reference, old_config, config, inputs, last_step)
    refuse_unused_settings(record, old_config, inputs.resolved, start.step, command)
    if start.step >= steps:
        return finished(run, record, start.step, steps)
    return NothingToDo(run, record, f"{run.name} is at step {start.step:,} already")


def _prepare(
    run: RunDirectory, lock: RunLock, options: LaunchOptions, command: ResumeCommand, context: LaunchContext
) -> PreparedSegment | NothingToDo:
    """Prepare a resume under the run's lock."""
    notify, stop = context.notify, context.stop
    point = find_resume_point(run, options, command, context)
    if isinstance(point, NothingToDo):
        return point
    record, start, reference, inputs = point.record, point.start, point.reference, point.inputs

    # The state, the ledger and this machine
    if start.checkpoint is not None:
        refuse_other_architecture(start.checkpoint, inputs.resolved, point.old_config)
    check_ledger(run, start)
    check_shared_memory(inputs.resolved)
    check_space(run, inputs.resolved, run.checkpoints)
    runs_dir = run.path.resolve().parent
    preflight = run_preflight(
        inputs, runs_dir, context.backend, stop.check, origin=origin_of(run), notify=notify
    )
    for warning in preflight.warnings:
        notify(warning)

    # What changed, and whether it is allowed
    check_origin_of_checkpoint(run, record, start)
    changes = find_changes(record, reference, preflight, stop.check)
    diff = source_diff(run, reference, preflight.snapshot.sources)
    allowed = refuse_unless_allowed(changes.differences, options.allow, command.text, start.step, diff)
    for line in [*changes.not_compared, *learning_rate_lines(point.old_config, inputs.resolved, start.step)]:
        notify(line)

    # What the segment will be compared with
    bases = [Path.cwd(), Path(record.working_directory)]
    reference_run = find_reference_run(run, record.segments, preflight, bases, notify)
    baseline = baseline_for(preflight, run, bases, notify, kept=run.baseline_file)

    # From here on files of the run are changed
    stop.hold()
    segment = new_segment(
        len(record.segments) + 1,
        preflight,
        Fingerprint.of_json(record.fingerprint),
        from_step=start.step,
        checkpoint=start.name,
        allowed=allowed,
        changes=changes.for_record(),
        overrides=point.config.overrides,
        edits=point.config.edits,
    )
    lock.refuse_if_lost()
    write_order(run, inputs)  # what a full disk refuses comes before the roll-back
    preflight.snapshot.write(run.segment_provenance(segment.segment))
    if baseline is not None:
        baseline.write(run.baseline_file)
    roll_back(run, start, segment, notify)
    worker_spec = segment_worker_spec(
        segment,
        preflight,
        lock,
        until_step=point.last_step,
        audit_tails=tails_to_audit(run, record, reference, segment) if preflight.is_bitwise else [],
        reference_run=reference_run,
        baseline=baseline,
    )
    record = replace(record, steps=inputs.resolved.batch.steps)  # an allowed change of T_tokens changes them
    return PreparedSegment(run, lock, record, segment, worker_spec, preflight)


def resolve_inputs(record: RunRecord, config: ResumeConfig) -> RunInputs:
    """The config to continue with, resolved for its ranks, and its dataset."""
    inputs = find_run_inputs(config.loaded, [Path.cwd(), Path(record.working_directory)])
    if config.D is not None and config.D != inputs.resolved.batch.D:
        inputs = replace(inputs, resolved=resolve_for_D(inputs.resolved, config.D))
    check_devices(inputs.resolved)
    return inputs


def refuse_unused_settings(
    record: RunRecord, old_config: Mapping[str, Any], resolved: Resolved, step: int, command: ResumeCommand
) -> None:
    """Refuse changed settings that a run without a step left cannot use.

    old_config: the full config that `step` was made with.
    Raises InputError.  Changed operational fields of a CONFIG file alone are accepted: a batch script repeats its line.
    """
    new_config = resolved.config.model_dump(mode="json", by_alias=True)
    ignored = {"batch.D", "batch.A"}
    if step >= resolved.batch.steps != record.steps:
        ignored.add("T_tokens")  # `finished` reports it
    unused = [change for change in changed_fields(old_config, new_config) if change.key not in ignored]
    old = parse_config(old_config)
    is_repeated = command.config is not None and (
        old is None or numeric_fields(old) == numeric_fields(resolved.config)
    )
    if unused and not is_repeated:
        raise InputError(
            f"{record.identity} has no step left that could use {unused[0]}",
            caused_by=[str(change) for change in unused[1:]],
            hints=[
                "leave the setting out: the run then ends as it is",
                "`--from STEP` goes back to an earlier step, `--set T_tokens=…` adds steps",
            ],
        )


def parse_config(document: Mapping[str, Any]) -> Config | None:
    """A full config from a run's files; None if this version of llmrun cannot read it."""
    try:
        return Config.model_validate_json(json.dumps(document))
    except ValidationError:
        return None


def learning_rate_lines(old_config: Mapping[str, Any], resolved: Resolved, step: int) -> list[str]:
    """How a change of T_tokens, schedule or rate changes the learning rate of the segment's first step.

    old_config: the full config that `step` finished steps were made with.
    """
    old = parse_config(old_config)
    if old is None:
        return []
    before, now = training_spec(resolved_of(old, resolved.batch.D)), training_spec(resolved)

    def rate_before(step: int) -> float:
        return learning_rate(step, before.batch, before.schedule, before.optimizer.lr)

    rate = learning_rate(step + 1, now.batch, now.schedule, now.optimizer.lr)
    if rate_before(step + 1) == rate and before.batch.steps == now.batch.steps:
        return []
    was = "the run ended before it" if step >= before.batch.steps else f"{rate_before(step + 1):.6g} before"
    last = f"; step {step:,} had {rate_before(step):.6g}" if step else ""
    return [f"learning rate of step {step + 1:,}: {rate:.6g} now, {was}{last}"]


def finished(run: RunDirectory, record: RunRecord, step: int, steps: int) -> NothingToDo:
    """The result for a run whose steps are all done; marks it finished if its launcher was killed before it could.

    Raises InputError if the config asked for has fewer steps than the run.
    """
    if steps != record.steps:
        raise InputError(
            f"{run.name} is at step {step:,} of {record.steps:,}, and T_tokens of this config is {steps:,} steps",
            where="T_tokens",
            hints=["T_tokens is of the whole run; `--until STEP` stops early"],
        )
    if record.status != "finished":
        record = replace(record, status="finished")
        record.write(run.record_file)
    return NothingToDo(run, record, f"{run.name} is finished: {steps:,} of {steps:,} steps")
