"""`llmrun migrate`: a new run that begins with a mapped state, at the step of the old checkpoint."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmrun import __version__
from llmrun.config.load import LoadedConfig
from llmrun.errors import Hint, InputError, LlmrunError, Place, RefusedError
from llmrun.launch.fresh import commit, drafting, sweep_drafts, write_draft
from llmrun.launch.preflight import Notify, Preflight, RunInputs, examine, find_run_inputs, with_origin
from llmrun.launch.prepared import check_space, windows_and_entries
from llmrun.launch.select_checkpoint import passed_over
from llmrun.launch.torchrun import ProcessBackend
from llmrun.launch.unwritable import os_error_as
from llmrun.migrate.mapping import Mapped, mapped
from llmrun.migrate.record import migration_of, notes_on, optimizer_step_of, trainer_of
from llmrun.migrate.script import Script, read_script, run_script
from llmrun.migrate.state import GROUP_BYTES, SLOTS, Written, commit_state, write_state
from llmrun.migrate.target import NewModel
from llmrun.migrate.tensors import OldState
from llmrun.run.directory import RunDirectory, draft_directory, refuse_inside_run
from llmrun.run.recorded_state import judge_beside, judge_of
from llmrun.storage.checkpoint.errors import CheckpointWriteError
from llmrun.storage.checkpoint.layout import step_name
from llmrun.storage.checkpoint.listing import checkpoints_of, is_checkpoint
from llmrun.storage.checkpoint.reader import Checkpoint
from llmrun.storage.checkpoint.verification import Progress, newest_sound, open_judged
from llmrun.storage.durable import make_directories, replace_file, replace_json
from llmrun.storage.ledger.writer import LedgerWriter


@dataclass(frozen=True)
class MigrationRequest:
    """What the user asks for.

    source: a checkpoint's directory, or a run's, whose newest sound one is taken.
    script: the file with the function.  config: of the new model.  out: the new run's directory.
    """

    source: Path
    script: Path
    config: LoadedConfig
    out: Path


@dataclass(frozen=True)
class Migrated:
    """A new run that can be resumed.

    parent: the old checkpoint.  checkpoint: the new one.  migration: what was written down about it.
    """

    run: RunDirectory
    parent: Checkpoint
    checkpoint: Path
    state: Mapped
    migration: Mapping[str, Any]


def migrate(
    order: MigrationRequest,
    backend: ProcessBackend,
    notify: Notify,
    reading: Progress,
    writing: Progress,
    group_bytes: int = GROUP_BYTES,
) -> Migrated:
    """Map a checkpoint into a new run at `order.out`, which appears at once, whole.

    reading, writing: told how far verifying the old checkpoint and writing the new one are.
    group_bytes:      of tensors that memory holds at a time, or one tensor.
    Raises InputError, ConfigError, CheckpointDamage, RefusedError; then nothing was left behind.
    """
    final = RunDirectory(order.out)
    if order.out.exists():
        raise InputError(f"{order.out} exists", hints=["`--out` names a new run's directory"])
    with _hints_for_out():
        refuse_inside_run(order.out.parent, Place(option="--out"))
    script = read_script(order.script)
    inputs = find_run_inputs(order.config, [Path.cwd()])
    parent = open_parent(order.source, notify, reading)
    check_step(parent, inputs)
    state = run_mapping(script, parent, inputs)
    runs_dir = order.out.parent
    with _hints_for_out(), os_error_as(RefusedError, runs_dir):
        draft = draft_directory(runs_dir, final.name)
        with drafting(draft) as lock:
            sweep_drafts(runs_dir)
            make_directories(draft.checkpoints)
            check_space(draft, inputs.resolved, runs_dir)
            preflight = examine(inputs, runs_dir, backend, lambda: None)
            migration = write_all(draft, final.name, state, parent, preflight, writing, group_bytes)
            commit(draft, final)
            lock.release()
    for missing in preflight.snapshot.missing:
        notify(missing)
    for note in notes_on(parent, inputs.resolved, preflight.fingerprint.parts["data"]):
        notify(note)
    return Migrated(final, parent, final.checkpoints / step_name(parent.step), state, migration)


@contextmanager
def _hints_for_out() -> Iterator[None]:
    """`--out` is all that says where a migrated run goes: no advice to `--set` anything."""
    try:
        yield
    except LlmrunError as error:
        if any(hint.kind == "setting" for hint in error.hints):
            error.hints = (Hint.setting("free space, or choose another directory with `--out`", "--out"),)
        raise


def open_parent(source: Path, notify: Notify, progress: Progress) -> Checkpoint:
    """The checkpoint to migrate, every byte verified.

    Raises InputError where there is none, CheckpointDamage, RefusedError where a run has no sound one.
    """
    if is_checkpoint(source):
        return open_judged(source, progress, judge_beside(source))
    directory = checkpoints_of(source)
    checkpoint, damages = newest_sound(directory, progress, judge=judge_of(RunDirectory(directory.parent)))
    if checkpoint is None and damages:
        raise RefusedError(
            f"{source} has checkpoints and none of them is sound", caused_by=[str(d) for d in damages]
        )
    if checkpoint is None:
        raise InputError(f"{source} has no checkpoint to migrate")
    for line in passed_over(damages):
        notify(line)
    return checkpoint


def check_step(parent: Checkpoint, inputs: RunInputs) -> None:
    """The new run must have steps left.  Raises InputError."""
    steps = inputs.resolved.batch.steps
    if parent.step >= steps:
        raise InputError(
            f"{parent.path.name} stands at step {parent.step:,}, and T_tokens of the new config is {steps:,} steps",
            hints=["raise T_tokens, which counts the whole training: `--set T_tokens=…`"],
        )


def run_mapping(script: Script, parent: Checkpoint, inputs: RunInputs) -> Mapped:
    """What the script makes of the old parameters for the new model.  Raises InputError."""
    resolved = inputs.resolved
    old, new = OldState(parent, SLOTS), NewModel(resolved.shape, resolved.config.seed)
    returned, line = run_script(script, old, new)
    return mapped(script, returned, line, old, new)


def write_all(
    draft: RunDirectory,
    name: str,
    state: Mapped,
    parent: Checkpoint,
    preflight: Preflight,
    progress: Progress,
    group_bytes: int,
) -> dict[str, Any]:
    """All files of the new run, run.json last.  Returns what was written down about the migration.

    Raises InputError where the script fails, RefusedError where the disk does.
    """
    from llmrun.migrate.numbers import digests_of

    step, batch = parent.step, preflight.resolved.batch
    try:
        written = write_state(draft.checkpoints, state, step, digests_of, progress, group_bytes)
        preflight = with_origin(preflight, written.origin)
        migration = migration_of(parent, state, written.origin)
        commit_checkpoint(draft, written, parent, preflight, migration, state.script)
    except CheckpointWriteError as error:
        raise RefusedError(error.message, where=str(draft.path.parent), hints=error.hints) from error
    make_directories(draft.provenance)
    replace_json(draft.migration_file, migration)
    replace_file(draft.migration_script, [state.script.content])
    after = (step, written.origin.chain)
    ledger = LedgerWriter.create(draft.ledger_file, f"llmrun {__version__}", batch.steps, after=after)
    ledger.sync()
    ledger.close()
    write_draft(draft, name, preflight, None)
    return migration


def commit_checkpoint(
    draft: RunDirectory,
    written: Written,
    parent: Checkpoint,
    preflight: Preflight,
    migration: Mapping[str, Any],
    script: Script,
) -> None:
    """Commit the new checkpoint, at the old one's step.  Raises CheckpointWriteError."""
    from llmrun.migrate.numbers import boundary_states

    resolved = preflight.resolved
    n_windows, _ = windows_and_entries(preflight.inputs)
    text = script.content.decode(errors="replace")
    commit_state(
        draft.checkpoints,
        written,
        tokens=written.step * resolved.batch.gb_tok,
        fingerprint=preflight.fingerprint.digest,
        parts=preflight.fingerprint.parts,
        trainer=trainer_of(resolved, written.step, n_windows, optimizer_step_of(parent), migration, text),
        rng=boundary_states(resolved.config.seed, written.step),
    )
