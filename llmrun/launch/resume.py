"""Resuming: exactly, or after the user has allowed a named kind of change, or not at all.

Everything is looked at first; the run's files are touched only when nothing is left that could refuse.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from llmrun.config.dump import numeric_fields
from llmrun.config.load import LoadedConfig
from llmrun.config.resolve import Resolved, resolve_for_D, resolved_of, training_spec
from llmrun.config.schema import Config
from llmrun.core.schedule import learning_rate
from llmrun.errors import DamagedError, InputError, RefusedError
from llmrun.launch.changes import (
    changed_fields,
    differences_from,
    fingerprint_of_segment,
    not_compared,
    reference_of,
    refuse_other_architecture,
    refuse_unless_allowed,
    repository_difference,
)
from llmrun.launch.fresh import write_order
from llmrun.launch.options import LaunchOptions
from llmrun.launch.orphans import wait_for_leftovers
from llmrun.launch.preflight import Notify, Preflight, RunInputs, examine, find_run_inputs
from llmrun.launch.prepared import (
    NothingToDo,
    PreparedSegment,
    check_devices,
    check_shared_memory,
    check_space,
    find_reference_run,
    last_step,
    open_segment,
    promises_bits,
    worker_spec_for,
)
from llmrun.launch.reference_run import baseline_for
from llmrun.launch.resume_config import GoingOn, go_on_with_config, go_on_with_segment
from llmrun.launch.rollback import check_ledger, rewind, tails_to_audit
from llmrun.launch.select_checkpoint import Start, choose_start
from llmrun.launch.torchrun import ProcessBackend
from llmrun.launch.unwritable import os_error_as
from llmrun.provenance.fingerprint import Fingerprint
from llmrun.run.directory import RunDirectory
from llmrun.run.history import config_of_segment, read_record_or_refuse
from llmrun.run.lock import RunLock
from llmrun.run.origin import origin_of
from llmrun.run.record import RunRecord, Segment
from llmrun.run.signals import LauncherStopRequest
from llmrun.storage.checkpoint.verification import Progress
from llmrun.storage.ledger.reader import LedgerReader


@dataclass(frozen=True)
class ResumeCommand:
    """How the user would type it again, for hints; config: CONFIG of `llmrun train CONFIG --run ID`."""

    text: str
    config: LoadedConfig | None = None


def prepare_resume(
    run: RunDirectory,
    options: LaunchOptions,
    command: ResumeCommand,
    backend: ProcessBackend,
    stop: LauncherStopRequest,
    notify: Notify,
    progress: Progress | None = None,
) -> PreparedSegment | NothingToDo:
    """The next segment of a run, ready to start, or why there is none.

    progress: told how many bytes of checkpoints were verified.
    Raises InputError, ConfigError, RefusedError, PreemptedError; then the run is as it was, except that a
    segment that a killed launcher left open is closed.
    """
    lock = RunLock.acquire(run.lock_file, notify=notify)
    try:
        if lock.taken_over is not None:
            notify(lock.taken_over)
        with os_error_as(RefusedError, run.path):
            wait_for_leftovers(run, notify, stop.check)
            ready = _prepare(
                run, lock, options.with_D_of_overrides(), command, backend, stop, notify, progress
            )
    except BaseException:
        lock.release()
        raise
    if isinstance(ready, NothingToDo):
        lock.release()
    return ready


def _prepare(
    run: RunDirectory,
    lock: RunLock,
    options: LaunchOptions,
    command: ResumeCommand,
    backend: ProcessBackend,
    stop: LauncherStopRequest,
    notify: Notify,
    progress: Progress | None,
) -> PreparedSegment | NothingToDo:
    """The steps of a resume in their order."""
    record = close_open_segment(run, read_record_or_refuse(run), notify)
    start = choose_start(run, options.start, notify, progress, record.saved_step)
    plain = options.start == "newest" and not options.overrides and not command.config
    if plain and record.status == "finished" and start.step == record.steps:
        return finished(run, record, start.step, record.steps)
    reference = reference_of(record, start.step) if record.segments else None
    going_on = (
        go_on_with_segment(run, record, reference, options, notify)
        if command.config is None
        else go_on_with_config(run, record, options, command.config)
    )
    inputs = material_of(record, going_on)
    steps = inputs.resolved.batch.steps
    last = last_step(steps, options.until)
    written = config_of_segment(run, record, reference) or record.config
    if start.step >= last:
        refuse_lost_settings(record, written, inputs.resolved, start.step, command)
        if start.step >= steps:
            return finished(run, record, start.step, steps)
        return NothingToDo(run, record, f"{run.name} stands at step {start.step:,} already")
    if start.checkpoint is not None:
        refuse_other_architecture(start.checkpoint, inputs.resolved, written)
    check_ledger(run, start)
    check_shared_memory(inputs.resolved)
    check_space(run, inputs.resolved, run.checkpoints)
    preflight = examine(inputs, run.path.resolve().parent, backend, stop.check, origin_of(run), notify)
    for warning in preflight.remarks:
        notify(warning)
    allowed, changes = compare(run, record, reference, start, preflight, options, command, stop, notify)
    bases = [Path.cwd(), Path(record.working_directory)]
    for line in rate_lines(written, inputs.resolved, start.step):
        notify(line)
    reference_run = find_reference_run(run, record.segments, preflight, bases, notify)
    baseline = baseline_for(preflight, run, bases, notify, kept=run.baseline_file)
    stop.hold()
    segment = open_segment(
        len(record.segments) + 1,
        preflight,
        Fingerprint.of_json(record.fingerprint),
        from_step=start.step,
        checkpoint=start.name,
        allowed=allowed,
        changes=changes,
        overrides=going_on.overrides,
        edits=going_on.edits,
    )
    lock.refuse_if_lost()
    write_order(run, inputs)  # what a full disk refuses comes before anything is cut back
    preflight.snapshot.write(run.segment_provenance(segment.segment))
    if baseline is not None:
        baseline.write(run.baseline_file)
    rewind(run, start, segment, notify)
    audited = tails_to_audit(run, record, reference, segment) if promises_bits(preflight) else []
    record = replace(record, steps=steps)  # an allowed change of T_tokens moves the horizon
    worker_spec = worker_spec_for(segment, preflight, last, audited, reference_run, baseline, lock)
    return PreparedSegment(run, lock, record, segment, worker_spec, preflight)


def refuse_lost_settings(
    record: RunRecord, written: Mapping[str, Any], resolved: Resolved, step: int, command: ResumeCommand
) -> None:
    """Refuse settings that a run with no step left cannot use, rather than drop them.

    written: the config of the run's last segment.
    Raises InputError.  Operational fields of a CONFIG file alone are no reason: a batch script repeats its line.
    """
    now = resolved.config.model_dump(mode="json", by_alias=True)
    elsewhere = ["batch.D:", "batch.A:"]
    if step >= resolved.batch.steps != record.steps:
        elsewhere.append("T_tokens:")  # `finished` says more about it
    lost = [line for line in changed_fields(written, now) if not line.startswith(tuple(elsewhere))]
    old = config_on_record(written)
    is_repeated = command.config is not None and (
        old is None or numeric_fields(old) == numeric_fields(resolved.config)
    )
    if lost and not is_repeated:
        raise InputError(
            f"{record.identity} has no step left that could use {lost[0]}",
            caused_by=lost[1:],
            hints=[
                "leave the setting out: the run then ends as it is",
                "`--from STEP` goes back to an earlier step, `--set T_tokens=…` adds steps",
            ],
        )


def config_on_record(written: Mapping[str, Any]) -> Config | None:
    """A full config as a run recorded it; None if it is not one for this version of llmrun."""
    try:
        return Config.model_validate_json(json.dumps(written))
    except ValidationError:
        return None


def rate_lines(written: Mapping[str, Any], resolved: Resolved, step: int) -> list[str]:
    """How a change of T_tokens, schedule or rate moves the learning rate where the segment starts.

    written: the config that `step` finished steps were made with.
    """
    old = config_on_record(written)
    if old is None:
        return []
    before, now = training_spec(resolved_of(old, resolved.batch.D)), training_spec(resolved)

    def rate_before(step: int) -> float:
        return learning_rate(step, before.batch, before.schedule, before.optimizer.lr)

    rate = learning_rate(step + 1, now.batch, now.schedule, now.optimizer.lr)
    if rate_before(step + 1) == rate and before.batch.steps == now.batch.steps:
        return []
    had = "the run ended before it" if step >= before.batch.steps else f"{rate_before(step + 1):.6g} before"
    last = f"; step {step:,} had {rate_before(step):.6g}" if step else ""
    return [f"learning rate of step {step + 1:,}: {rate:.6g} now, {had}{last}"]


def finished(run: RunDirectory, record: RunRecord, step: int, steps: int) -> NothingToDo:
    """The whole run is done; a launcher that was killed after the last save could not say so.

    Raises InputError where it is only the wished config that ends before the run does.
    """
    if steps != record.steps:
        raise InputError(
            f"{run.name} stands at step {step:,} of {record.steps:,}, and T_tokens of this config is {steps:,} steps",
            hints=["T_tokens is a whole run's; `--until STEP` stops early"],
        )
    if record.status != "finished":
        record = replace(record, status="finished")
        record.write(run.record_file)
    return NothingToDo(run, record, f"{run.name} is finished: {steps:,} of {steps:,} steps")


def close_open_segment(run: RunDirectory, record: RunRecord, notify: Notify) -> RunRecord:
    """Write down the end of a segment whose launcher was killed before it could."""
    last = record.last
    if last is None or last.why is not None:
        return record
    step = recorded_step(run, last.from_step)
    closed = record.closed("killed", step)
    closed.write(run.record_file)
    notify(f"segment {last.segment} ended without a word at step {step:,}: its launcher was killed")
    return closed


def recorded_step(run: RunDirectory, at_least: int) -> int:
    """The last step that the ledger holds; `at_least` where it cannot be read."""
    try:
        return max(LedgerReader(run.ledger_file).last_step, at_least)
    except (OSError, DamagedError):
        return at_least


def material_of(record: RunRecord, going_on: GoingOn) -> RunInputs:
    """The config to go on with, resolved for its ranks, and its dataset."""
    inputs = find_run_inputs(going_on.loaded, [Path.cwd(), Path(record.working_directory)])
    if going_on.D is not None and going_on.D != inputs.resolved.batch.D:
        inputs = replace(inputs, resolved=resolve_for_D(inputs.resolved, going_on.D))
    check_devices(inputs.resolved)
    return inputs


def compare(
    run: RunDirectory,
    record: RunRecord,
    reference: Segment | None,
    start: Start,
    preflight: Preflight,
    options: LaunchOptions,
    command: ResumeCommand,
    stop: LauncherStopRequest,
    notify: Notify,
) -> tuple[list[str], list[str]]:
    """Refuse what changed and was not allowed.  Returns the kinds allowed and all changes as lines.

    What could not be compared refuses nothing: it is printed and is one of the lines.
    """
    check_belongs(run, record, start)
    if reference is None:
        old, git = Fingerprint.of_json(record.fingerprint), record.git
    else:
        old, git = fingerprint_of_segment(record, reference), reference.git
    repository = repository_difference(git, preflight, stop.check)
    differences = differences_from(old, repository, preflight)
    allowed = refuse_unless_allowed(differences, options.allow, command.text, start.step)
    config = preflight.resolved.config.model_dump(mode="json", by_alias=True)
    lines = [f"{difference.part}: {difference.message}" for difference in differences]
    for line in not_compared(repository):
        notify(line)
        lines.append(f"code: {line}")
    operational = [f"config: {line}" for line in changed_fields(record.config, config)]
    return allowed, list(dict.fromkeys([*lines, *operational]))


def check_belongs(run: RunDirectory, record: RunRecord, start: Start) -> None:
    """The checkpoint must have been written under one of the run's fingerprints.  Raises RefusedError."""
    if start.checkpoint is None:
        return
    manifest = start.checkpoint.manifest
    known = {segment.fingerprint: segment.parts for segment in record.segments}
    known[record.fingerprint["digest"]] = record.fingerprint["parts"]
    if known.get(manifest.fingerprint, manifest.parts) != dict(manifest.parts):
        raise RefusedError(
            f"the manifest of {start.name} contradicts run.json: same fingerprint, other parts",
            where=str(start.checkpoint.path),
            hints=["restore the checkpoint from a copy, or resume from another one: `--from STEP`"],
        )
    if manifest.fingerprint not in known:
        raise RefusedError(
            f"{start.name} was not written by {run.name}: no segment of the run has its fingerprint",
            where=str(start.checkpoint.path),
            hints=["remove the foreign checkpoint, or resume from another one: `--from STEP`"],
        )
