"""Starting a new run: everything is checked first, then its directory appears at once, complete."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from llmrun.config.load import LoadedConfig
from llmrun.config.schema import NAME_PATTERN
from llmrun.config.yaml_writer import dump_yaml
from llmrun.data.manifest import recorded_of
from llmrun.data.order_file import prepare_order_file
from llmrun.errors import InputError, Place, RefusedError
from llmrun.launch.baseline import baseline_for
from llmrun.launch.devices import check_devices
from llmrun.launch.options import LaunchContext, LaunchOptions
from llmrun.launch.os_errors import os_error_as
from llmrun.launch.preflight import (
    Preflight,
    RunInputs,
    check_shared_memory,
    check_space,
    find_run_inputs,
    run_preflight,
    with_own_model,
)
from llmrun.launch.prepared_segment import PreparedSegment, new_segment, segment_worker_spec
from llmrun.launch.reference_run import find_reference_run
from llmrun.run.directory import RunDirectory, draft_directory, run_id
from llmrun.run.lock import RunLock, file_system_time, is_left_behind
from llmrun.run.record import RunRecord, now_utc
from llmrun.storage.durable import (
    DISK,
    TEMPORARY_PREFIX,
    commit_directory,
    make_directories,
    replace_json,
    replace_text,
)
from llmrun.storage.metrics.loss_band import Baseline
from llmrun.text import command


def check_identity(identity: str) -> None:
    """Check the name given by `--run`.  Raises InputError."""
    if not re.fullmatch(NAME_PATTERN, identity):
        raise InputError(
            f"invalid run name: {identity}",
            where=Place(option="--run"),
            hints=[
                "use letters, digits, `.`, `_` and `-`, not starting with a dot",
                "`--set runs_dir=DIR` chooses the place",
            ],
        )


def prepare_fresh(
    loaded: LoadedConfig, identity: str | None, options: LaunchOptions, context: LaunchContext
) -> PreparedSegment:
    """A new run, ready to start.

    identity: the directory's name; None: the config's name, the time and four hex digits.
    Raises ConfigError, InputError, RefusedError, PreemptedError; then nothing is left behind.
    """
    notify, stop, bases = context.notify, context.stop, [Path.cwd()]
    inputs = with_own_model(find_run_inputs(loaded, bases), context.backend, stop.check)
    config = inputs.resolved.config
    until_step = options.last_step(inputs.resolved.batch.steps)
    check_devices(inputs.resolved)
    check_shared_memory(inputs.resolved)
    runs_dir = Path(config.runs_dir)
    name = identity or run_id(config.name, datetime.now().astimezone())
    final = RunDirectory(runs_dir / name)
    refuse_existing(final)
    with os_error_as(RefusedError, runs_dir):
        draft = draft_directory(runs_dir, name)
        with drafting(draft) as lock:
            sweep_drafts(runs_dir)
            make_directories(draft.checkpoints)
            check_space(draft, inputs.resolved, runs_dir)
            preflight = run_preflight(inputs, runs_dir, context.backend, stop.check, notify=notify)
            reference_run = find_reference_run(final, [], preflight, bases, notify)
            baseline = baseline_for(preflight, final, bases, notify)
            record = write_draft(draft, name, preflight, baseline)
            stop.hold()
            commit(draft, final)
    for warning in preflight.warnings:
        notify(warning)
    segment = new_segment(1, preflight, preflight.fingerprint, from_step=0, checkpoint=None)
    worker_spec = segment_worker_spec(
        segment,
        preflight,
        lock,
        until_step=until_step,
        audit_tails=[],
        reference_run=reference_run,
        baseline=baseline,
    )
    return PreparedSegment(final, lock, record, segment, worker_spec, preflight)


@contextmanager
def drafting(draft: RunDirectory) -> Iterator[RunLock]:
    """The lock of a draft; on an exception the lock is released and the draft removed."""
    try:
        lock = RunLock.acquire(draft.lock_file)
        try:
            yield lock
        except BaseException:
            lock.release()
            raise
    except BaseException:
        # The draft may have been renamed already; what cannot be removed is hidden and swept by a later start.
        with suppress(OSError):
            DISK.remove_tree(draft.path)
        raise


DRAFT_NAME = re.compile(rf"{re.escape(TEMPORARY_PREFIX)}.+-\d+-[0-9a-f]{{8}}")
UNOWNED_AFTER_S = 3600.0
"""Age from which a draft without an owner is removed; a launcher locks its draft within milliseconds."""


def sweep_drafts(runs_dir: Path) -> None:
    """Remove the drafts of launchers that were killed before their run had its name; what cannot be removed stays.

    The age of other hosts' heartbeats is measured by the clock of the file system that stamps them.
    """
    now_s = file_system_time(runs_dir)
    for path in sorted(runs_dir.glob(f"{TEMPORARY_PREFIX}*/run.lock")):
        with suppress(OSError):
            if is_left_behind(path, now_s):
                DISK.remove_tree(path.parent)
    for draft in sorted(runs_dir.glob(f"{TEMPORARY_PREFIX}*")):
        with suppress(OSError):
            sweep_unowned(draft, now_s)


def sweep_unowned(draft: Path, now_s: float) -> None:
    """Remove the draft of a launcher that was killed before it could lock it.

    The name must be a draft's and its age an hour; only an empty lock file and an empty directory are removed, so
    that a launcher that was only suspended loses no data.  Raises OSError if the draft holds anything else.
    """
    is_draft = DRAFT_NAME.fullmatch(draft.name) and draft.is_dir() and not draft.is_symlink()
    if not is_draft or now_s - draft.stat().st_mtime < UNOWNED_AFTER_S:
        return
    lock = draft / "run.lock"
    if lock.exists() and lock.stat().st_size == 0 and [path.name for path in draft.iterdir()] == [lock.name]:
        DISK.remove_file(lock)
    draft.rmdir()


def refuse_existing(run: RunDirectory) -> None:
    """Check that nothing has the run's path.  Raises RefusedError if a run has it, InputError if anything else has."""
    if run.is_run:
        raise made_meanwhile(run)
    if run.path.exists():
        raise InputError(
            f"{run.path} exists and is not a run's directory", hints=["choose another name with `--run ID`"]
        )


def commit(draft: RunDirectory, final: RunDirectory) -> None:
    """Rename the draft to the run's path.  Raises RefusedError if that exists by now, OSError."""
    try:
        commit_directory(draft.path, final.path)
    except FileExistsError as error:
        raise made_meanwhile(final) from error
    except OSError as error:
        if error.errno == errno.ENOTEMPTY:
            raise made_meanwhile(final) from error
        if draft.path.exists():
            raise
        raise RefusedError(
            f"cannot sync {final.path.parent} to disk: {error.strerror}; the run was made",
            hints=[f"`{command('llmrun', 'resume', final.path)}` starts that run"],
        ) from error


def made_meanwhile(run: RunDirectory) -> RefusedError:
    """The error if another command with the same `--run ID` was first."""
    return RefusedError(
        f"another process has just made {run.path}",
        hints=[f"`{command('llmrun', 'resume', run.path)}` continues that run"],
    )


def write_draft(draft: RunDirectory, name: str, preflight: Preflight, baseline: Baseline | None) -> RunRecord:
    """Write all files of a new run, run.json last."""
    inputs = preflight.inputs
    replace_text(draft.config_file, dump_yaml(inputs.resolved.config))
    preflight.snapshot.write(draft.provenance)
    replace_json(draft.provenance / "data.json", recorded_of(inputs.manifest))
    write_order(draft, inputs)
    if baseline is not None:
        baseline.write(draft.baseline_file)
    record = RunRecord(
        identity=name,
        created=now_utc(),
        status="created",
        steps=inputs.resolved.batch.steps,
        config=inputs.resolved.config.model_dump(mode="json", by_alias=True),
        fingerprint=preflight.fingerprint.as_json(),
        git=preflight.snapshot.git.identity(),
        working_directory=str(Path.cwd()),
    )
    record.write(draft.record_file)
    return record


def write_order(run: RunDirectory, inputs: RunInputs) -> None:
    """Write the order file if the config asks for one and no valid one is there.  Raises RefusedError."""
    config = inputs.resolved.config
    prepare_order_file(
        run.path, config.data.order_file, config.seed, inputs.n_train_windows, inputs.n_train_samples
    )
