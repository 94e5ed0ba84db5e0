"""Selects the checkpoint that a resume starts from."""

from dataclasses import dataclass
from typing import Literal

from llmrun.errors import InputError, RefusedError
from llmrun.launch.options import Notify
from llmrun.run.directory import RunDirectory
from llmrun.run.origin import origin_of
from llmrun.run.record_check import record_check_of
from llmrun.storage.checkpoint.errors import CheckpointDamage, Damage
from llmrun.storage.checkpoint.layout import step_name, steps_in
from llmrun.storage.checkpoint.listing import best_step_of
from llmrun.storage.checkpoint.reader import Checkpoint
from llmrun.storage.checkpoint.verification import Progress, newest_sound, open_checked


@dataclass(frozen=True)
class SegmentStart:
    """Where a segment begins.  checkpoint: None is the initial state, step 0."""

    checkpoint: Checkpoint | None

    @property
    def step(self) -> int:
        """Finished steps."""
        return 0 if self.checkpoint is None else self.checkpoint.step

    @property
    def name(self) -> str | None:
        """The checkpoint's directory name."""
        return None if self.checkpoint is None else self.checkpoint.path.name


def select_start(
    run: RunDirectory,
    wanted: int | Literal["newest", "best"],
    notify: Notify,
    progress: Progress | None = None,
    saved_step: int = 0,
) -> SegmentStart:
    """The newest sound checkpoint, the one of a step, or the best one, with every byte verified.

    notify:     receives a line for each damaged checkpoint that is skipped.
    progress:   receives the bytes verified so far.
    saved_step: the last step that run.json records as saved.
    Raises InputError if the wanted one is not there, RefusedError if it, or every one, is damaged.
    """
    if wanted == "newest":
        return SegmentStart(newest_checkpoint(run, notify, progress, saved_step))
    if wanted == "best":
        return SegmentStart(best_checkpoint(run, notify, progress, saved_step))
    if wanted == 0:
        refuse_step_0(run)
        return SegmentStart(None)
    return SegmentStart(checkpoint_of_step(run, wanted, progress))


def refuse_step_0(run: RunDirectory) -> None:
    """Refuse to start a migrated run from step 0.  Raises InputError."""
    origin = origin_of(run)
    if origin is not None:
        raise InputError(
            f"cannot start {run.name} from step 0: it begins at step {origin.step:,} with a migrated state",
            where=str(run.migration_file),
            hints=[
                "`llmrun migrate` makes that state again, `llmrun train` begins at step 0 with this config"
            ],
        )


def newest_checkpoint(
    run: RunDirectory, notify: Notify, progress: Progress | None = None, saved_step: int = 0
) -> Checkpoint | None:
    """The newest sound checkpoint; None if none was ever committed.

    Raises RefusedError if none is sound, or if none is there although step `saved_step` was saved.
    """
    if not steps_in(run.checkpoints):
        if saved_step:
            raise RefusedError(
                f"{run.name} saved step {saved_step:,}, and its checkpoints are gone",
                where=str(run.checkpoints),
                hints=["restore one from a copy", "`--from 0` computes the run again from step 0"],
            )
        refuse_step_0(run)
        notify("no checkpoint was committed yet: starting at step 0")
        return None
    checkpoint, damages = newest_sound(run.checkpoints, progress, record_check=record_check_of(run))
    if checkpoint is None:
        raise RefusedError(
            f"all checkpoints of {run.name} are damaged",
            where=str(run.checkpoints),
            caused_by=[str(damage) for damage in damages],
            hints=["restore one from a copy", "`--from 0` computes the run again from step 0"],
        )
    for line in skipped_checkpoints(damages):
        notify(line)
    if checkpoint.step < saved_step:
        notify(
            f"the saved state of step {saved_step:,} is missing or damaged: continuing from step "
            f"{checkpoint.step:,}, steps {checkpoint.step + 1:,} to {saved_step:,} are computed again"
        )
    return checkpoint


def skipped_checkpoints(damages: list[Damage]) -> list[str]:
    """One line for each damaged checkpoint, with its first damage."""
    first: dict[str, Damage] = {}
    for damage in damages:
        first.setdefault(damage.checkpoint, damage)
    return [f"skipping damaged checkpoint {damage}" for damage in first.values()]


def best_checkpoint(
    run: RunDirectory, notify: Notify, progress: Progress | None = None, saved_step: int = 0
) -> Checkpoint | None:
    """The checkpoint with the best val_ppl, as recorded in the newest sound one."""
    newest = newest_checkpoint(run, notify, progress, saved_step)
    best_step = None if newest is None else best_step_of(newest)
    if best_step is None:
        raise InputError(
            f"{run.name} has no best checkpoint: no checkpoint with a val_ppl was saved yet",
            hints=["`--from STEP` takes the one of a step; without `--from`, the newest sound one is taken"],
        )
    return checkpoint_of_step(run, best_step, progress)


def checkpoint_of_step(run: RunDirectory, step: int, progress: Progress | None = None) -> Checkpoint:
    """The checkpoint of exactly this step.  Raises InputError if there is none, RefusedError if it is damaged."""
    steps = steps_in(run.checkpoints)
    if step not in steps:
        existing = ", ".join(str(known) for known in steps) or "none"
        raise InputError(
            f"{run.name} has no checkpoint of step {step}", hints=[f"checkpoints exist of steps: {existing}"]
        )
    path = run.checkpoints / step_name(step)
    try:
        return open_checked(path, progress, record_check_of(run))
    except CheckpointDamage as error:
        raise RefusedError(
            f"the checkpoint of step {step} is damaged",
            where=str(path),
            caused_by=[str(damage) for damage in error.damages],
            hints=["without `--from`, the newest sound checkpoint is taken"],
        ) from error
