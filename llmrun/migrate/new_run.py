"""`llmrun migrate`: makes a new run that begins with a migrated state, at the step of the old checkpoint."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmrun import __version__
from llmrun.config.load import LoadedConfig
from llmrun.config.resolve import Resolved, training_spec
from llmrun.core.parameter_groups import moments_of
from llmrun.errors import Hint, InputError, LlmrunError, RefusedError
from llmrun.launch.new_run import commit, drafting, sweep_drafts, write_draft
from llmrun.launch.options import Notify
from llmrun.launch.os_errors import os_error_as
from llmrun.launch.preflight import (
    Preflight,
    RunInputs,
    check_space,
    find_run_inputs,
    run_preflight,
    with_own_model,
)
from llmrun.launch.select_checkpoint import skipped_checkpoints
from llmrun.launch.torchrun import ProcessBackend
from llmrun.migrate.checkpoint import (
    GROUP_BYTES,
    Written,
    commit_state,
    optimizer_step_of,
    position_of,
    trainer_of,
    write_state,
)
from llmrun.migrate.mapping import Mapped, mapped
from llmrun.migrate.script import Script, read_script, run_script
from llmrun.migrate.tensors import NewModel, OldState
from llmrun.run.directory import RunDirectory, draft_directory, refuse_inside_run
from llmrun.run.origin import MIGRATION_FORMAT, Origin
from llmrun.run.record_check import record_check_for, record_check_of
from llmrun.runtime.model_import import ModelImport, open_import_root
from llmrun.storage.checkpoint.errors import CheckpointWriteError
from llmrun.storage.checkpoint.layout import MANIFEST, step_name
from llmrun.storage.checkpoint.listing import checkpoints_of, is_checkpoint
from llmrun.storage.checkpoint.reader import Checkpoint, read_sums
from llmrun.storage.checkpoint.verification import Progress, newest_sound, open_checked
from llmrun.storage.durable import make_directories, replace_file, replace_json
from llmrun.storage.ledger.writer import LedgerWriter


@dataclass(frozen=True)
class MigrationRequest:
    """The arguments of `llmrun migrate`.

    source: the directory of a checkpoint, or of a run, whose newest sound checkpoint is used.
    script: the file with the function.  config: of the new model.  out: the directory of the new run.
    """

    source: Path
    script: Path
    config: LoadedConfig
    out: Path


@dataclass(frozen=True)
class Migrated:
    """A new run that can be resumed.

    parent: the old checkpoint.  checkpoint: the new one.  migration: the content of migration.json.
    """

    run: RunDirectory
    parent: Checkpoint
    checkpoint: Path
    state: Mapped
    migration: Mapping[str, Any]


def migrate(
    request: MigrationRequest,
    backend: ProcessBackend,
    notify: Notify,
    reading: Progress,
    writing: Progress,
    group_bytes: int = GROUP_BYTES,
) -> Migrated:
    """Migrate a checkpoint to a new run at `request.out`, which appears complete or not at all.

    reading, writing: receive the progress of verifying the old checkpoint and of writing the new one.
    group_bytes:      see `write_state`.
    Raises InputError, ConfigError, CheckpointDamage, RefusedError; no files are left behind then.
    """
    final = RunDirectory(request.out)
    if request.out.exists():
        raise InputError(f"--out {request.out} exists", hints=["choose another --out for the new run"])
    with _checking_out():
        refuse_inside_run(request.out.parent, "--out")
    script = read_script(request.script)
    inputs = with_own_model(find_run_inputs(request.config, [Path.cwd()]), backend, lambda: None)
    parent = open_parent(request.source, notify, reading)
    check_step(parent, inputs)
    state = run_mapping(script, parent, inputs)
    runs_dir = request.out.parent
    with os_error_as(RefusedError, runs_dir, [OUT_HINT]):
        with _checking_out():
            draft = draft_directory(runs_dir, final.name)
        with drafting(draft) as lock:
            sweep_drafts(runs_dir)
            make_directories(draft.checkpoints)
            with _checking_out():
                check_space(draft, inputs.resolved, runs_dir)
            preflight = run_preflight(inputs, runs_dir, backend, lambda: None)
            migration = write_all(draft, final.name, state, parent, preflight, writing, group_bytes)
            commit(draft, final)
            lock.release()
    for missing in preflight.snapshot.missing:
        notify(missing)
    for note in notes_on(parent, inputs.resolved, preflight.fingerprint.parts["data"]):
        notify(note)
    return Migrated(final, parent, final.checkpoints / step_name(parent.step), state, migration)


OUT_HINT = "free space, or choose another place with `--out`"


@contextmanager
def _checking_out() -> Iterator[None]:
    """Give errors about the place of the new run the hint for `--out`, because `runs_dir` does not apply."""
    try:
        yield
    except LlmrunError as error:
        error.hints = (Hint.setting(OUT_HINT, "--out"),)
        raise


def open_parent(source: Path, notify: Notify, progress: Progress) -> Checkpoint:
    """Open the checkpoint to migrate and verify every byte.

    Raises InputError if there is none, CheckpointDamage, RefusedError if no checkpoint of a run is sound.
    """
    if is_checkpoint(source):
        return open_checked(source, progress, record_check_for(source))
    directory = checkpoints_of(source)
    checkpoint, damages = newest_sound(
        directory, progress, record_check=record_check_of(RunDirectory(directory.parent))
    )
    if checkpoint is None and damages:
        raise RefusedError(f"no checkpoint of {source} is sound", caused_by=[str(d) for d in damages])
    if checkpoint is None:
        raise InputError(f"{source} has no checkpoint to migrate")
    for line in skipped_checkpoints(damages):
        notify(line)
    return checkpoint


def check_step(parent: Checkpoint, inputs: RunInputs) -> None:
    """Raises InputError if the new run would have no steps left."""
    steps = inputs.resolved.batch.steps
    if parent.step >= steps:
        raise InputError(
            f"T_tokens of the new config must be more than the {parent.step:,} steps of {parent.path.name}, got {steps:,}",
            hints=["raise T_tokens, which includes the steps of the old run: `--set T_tokens=…`"],
        )


def run_mapping(script: Script, parent: Checkpoint, inputs: RunInputs) -> Mapped:
    """Run the script, and check what it returns.  Raises InputError."""
    resolved = inputs.resolved
    own = ModelImport.of(resolved.config)
    if own is not None:
        open_import_root(own)
    moments = moments_of(training_spec(resolved).groups)
    old, new = OldState(parent), NewModel(resolved.model, resolved.config.seed, moments)
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
    """Write all files of the new run, run.json last.  Returns the content of migration.json.

    Raises InputError if the script fails, RefusedError if a file cannot be written.
    """
    from llmrun.migrate.numerics import digests_of

    step, batch = parent.step, preflight.resolved.batch
    try:
        written = write_state(draft.checkpoints, state, step, digests_of, progress, group_bytes)
        preflight = preflight.with_origin(written.origin)
        migration = migration_of(parent, state, written.origin)
        commit_checkpoint(draft, written, parent, preflight, migration, state.script)
    except CheckpointWriteError as error:
        raise RefusedError(error.message, where=str(draft.path.parent), hints=[OUT_HINT]) from error
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
    """Commit the new checkpoint at the step of the old one.  Raises CheckpointWriteError."""
    from llmrun.migrate.numerics import boundary_states

    resolved = preflight.resolved
    n_windows = preflight.inputs.n_train_windows
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


def migration_of(checkpoint: Checkpoint, state: Mapped, origin: Origin) -> dict[str, Any]:
    """The content of migration.json (docs/migration.md), which does not depend on paths."""
    return {
        "format": MIGRATION_FORMAT,
        "parent": {
            "manifest_sha256": read_sums(checkpoint.path)[MANIFEST],
            "step": checkpoint.step,
            "fingerprint": checkpoint.manifest.fingerprint,
            "chain": checkpoint.manifest.chain,
        },
        "script": {"name": state.script.path.name, "sha256": state.script.sha256},
        "origin": origin.as_json(),
        "initialised": state.initialised,
        "mixed": state.mixed,
        "zero_moments": state.without_moments,
        "dropped": state.dropped,
    }


def notes_on(checkpoint: Checkpoint, resolved: Resolved, data_digest: str) -> list[str]:
    """Further differences from the old run, one line each."""
    notes = []
    if checkpoint.manifest.parts.get("data") != data_digest:
        notes.append("the dataset differs from the one that the old run was trained on")
    before, now = checkpoint.trainer.get("data_position"), position_of(resolved, checkpoint.step)
    if isinstance(before, int) and before != now:
        notes.append(
            f"the old run has read {before:,} sequences; the new run continues at sequence {now:,}, its position "
            f"after step {checkpoint.step:,}"
        )
    return notes
