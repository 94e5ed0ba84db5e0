"""A new run: everything is checked first, then its directory appears at once, whole."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from llmrun.config.dump import dump_yaml
from llmrun.config.load import LoadedConfig
from llmrun.config.schema import NAME_PATTERN
from llmrun.data.order_file import prepare_order_file
from llmrun.errors import InputError, RefusedError
from llmrun.launch.options import LaunchOptions
from llmrun.launch.preflight import Notify, Preflight, RunInputs, data_recorded, examine, find_run_inputs
from llmrun.launch.prepared import (
    PreparedSegment,
    check_devices,
    check_shared_memory,
    check_space,
    find_reference_run,
    last_step,
    open_segment,
    windows_and_entries,
    worker_spec_for,
)
from llmrun.launch.reference_run import baseline_for
from llmrun.launch.torchrun import ProcessBackend
from llmrun.launch.unwritable import os_error_as
from llmrun.run.directory import RunDirectory, draft_directory, run_id
from llmrun.run.lock import RunLock, file_system_time, is_left_behind
from llmrun.run.record import RunRecord, now_utc
from llmrun.run.signals import LauncherStopRequest
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
    """A run's name given by `--run`.  Raises InputError."""
    if not re.fullmatch(NAME_PATTERN, identity):
        raise InputError(
            f"--run {identity} is no name for a run",
            hints=["letters, digits, `.`, `_` and `-`, not starting with a dot; the place is `runs_dir`"],
        )


def prepare_fresh(
    loaded: LoadedConfig,
    identity: str | None,
    options: LaunchOptions,
    backend: ProcessBackend,
    stop: LauncherStopRequest,
    notify: Notify,
) -> PreparedSegment:
    """A new run, ready to start.

    identity: the directory's name; None makes one of the config's name, the time and four hex digits.
    Raises ConfigError, InputError, RefusedError, PreemptedError; then nothing was left behind.
    """
    inputs = find_run_inputs(loaded, [Path.cwd()])
    config = inputs.resolved.config
    until = last_step(inputs.resolved.batch.steps, options.until)
    check_devices(inputs.resolved)
    check_shared_memory(inputs.resolved)
    runs_dir = Path(config.runs_dir)
    name = identity or run_id(config.name, datetime.now().astimezone())
    final = RunDirectory(runs_dir / name)
    refuse_taken(final)
    with os_error_as(RefusedError, runs_dir):
        draft = draft_directory(runs_dir, name)
        with drafting(draft) as lock:
            sweep_drafts(runs_dir)
            make_directories(draft.checkpoints)
            check_space(draft, inputs.resolved, runs_dir)
            preflight = examine(inputs, runs_dir, backend, stop.check, notify=notify)
            reference_run = find_reference_run(final, [], preflight, [Path.cwd()], notify)
            baseline = baseline_for(preflight, final, [Path.cwd()], notify)
            record = write_draft(draft, name, preflight, baseline)
            stop.hold()
            commit(draft, final)
    for warning in preflight.remarks:
        notify(warning)
    segment = open_segment(1, preflight, preflight.fingerprint, from_step=0, checkpoint=None)
    worker_spec = worker_spec_for(segment, preflight, until, [], reference_run, baseline, lock)
    return PreparedSegment(final, lock, record, segment, worker_spec, preflight)


@contextmanager
def drafting(draft: RunDirectory) -> Iterator[RunLock]:
    """The lock of a draft; where what follows fails, it is freed and the draft is removed."""
    try:
        lock = RunLock.acquire(draft.lock_file)
        try:
            yield lock
        except BaseException:
            lock.release()
            raise
    except BaseException:
        # What stays behind is hidden, and swept by a later start; the draft may have its name already.
        with suppress(OSError):
            DISK.remove_tree(draft.path)
        raise


DRAFT_NAME = re.compile(rf"{re.escape(TEMPORARY_PREFIX)}.+-\d+-[0-9a-f]{{8}}")
UNOWNED_AFTER_S = 3600.0
"""A launcher needs milliseconds from making its draft to locking it."""


def sweep_drafts(runs_dir: Path) -> None:
    """Remove what launchers left that were killed before their run had a name; what cannot be removed stays.

    Heartbeats of other hosts are judged by the clock that stamps them.
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

    Safe by construction: the name must be a draft's, its age an hour, and only an empty lock file and an empty
    directory are ever removed, so that a launcher that was only stopped loses nothing but its place.
    Raises OSError if anything else is in it.
    """
    is_draft = DRAFT_NAME.fullmatch(draft.name) and draft.is_dir() and not draft.is_symlink()
    if not is_draft or now_s - draft.stat().st_mtime < UNOWNED_AFTER_S:
        return
    lock = draft / "run.lock"
    if lock.exists() and lock.stat().st_size == 0 and [path.name for path in draft.iterdir()] == [lock.name]:
        DISK.remove_file(lock)
    draft.rmdir()


def refuse_taken(run: RunDirectory) -> None:
    """The name must be free.  Raises InputError, RefusedError where a run has it by now."""
    if run.is_run:
        raise taken(run)
    if run.path.exists():
        raise InputError(
            f"{run.path} exists and is not a run's directory", hints=["choose another name with `--run ID`"]
        )


def commit(draft: RunDirectory, final: RunDirectory) -> None:
    """Give the draft its name.  Raises RefusedError, OSError."""
    try:
        commit_directory(draft.path, final.path)
    except FileExistsError as error:
        raise taken(final) from error
    except OSError as error:
        if error.errno == errno.ENOTEMPTY:
            raise taken(final) from error
        if draft.path.exists():
            raise
        raise RefusedError(
            f"{final.path} was made, but its name could not be forced to the disk: {error.strerror}",
            hints=[f"`{command('llmrun', 'resume', final.path)}` starts that run"],
        ) from error


def taken(run: RunDirectory) -> RefusedError:
    """Two commands with one `--run ID` at once: the other was first."""
    return RefusedError(
        f"{run.path} was made by another process meanwhile",
        hints=[f"`{command('llmrun', 'resume', run.path)}` continues that run"],
    )


def write_draft(draft: RunDirectory, name: str, preflight: Preflight, baseline: Baseline | None) -> RunRecord:
    """All files of a new run, run.json last."""
    inputs = preflight.inputs
    replace_text(draft.config_file, dump_yaml(inputs.resolved.config))
    preflight.snapshot.write(draft.provenance)
    replace_json(draft.provenance / "data.json", data_recorded(inputs))
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


def write_order(run: RunDirectory, inputs: RunInputs) -> str:
    """Have a sound order file where the config wants one."""
    config = inputs.resolved.config
    windows, entries = windows_and_entries(inputs)
    return prepare_order_file(run.path, config.data.order_file, config.seed, windows, entries)
