"""Which checkpoint a resume starts from."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from llmrun.errors import InputError, RefusedError
from llmrun.run.directory import RunDirectory
from llmrun.run.origin import origin_of
from llmrun.run.record_check import record_check_of
from llmrun.storage.checkpoint.errors import CheckpointDamage, Damage
from llmrun.storage.checkpoint.layout import step_name, steps_in
from llmrun.storage.checkpoint.listing import best_step_of
from llmrun.storage.checkpoint.reader import Checkpoint
from llmrun.storage.checkpoint.verification import Progress, newest_sound, open_checked

Notify = Callable[[str], None]


@dataclass(frozen=True)
class Start:
    """Where a segment begins.  checkpoint: None begins at step 0."""

    checkpoint: Checkpoint | None

    @property
    def step(self) -> int:
        """Finished steps."""
        return 0 if self.checkpoint is None else self.checkpoint.step

    @property
    def name(self) -> str | None:
        """The checkpoint's directory name."""
        return None if self.checkpoint is None else self.checkpoint.path.name


def choose_start(
    run: RunDirectory,
    wish: int | Literal["newest", "best"],
    notify: Notify,
    progress: Progress | None = None,
    saved_step: int = 0,
) -> Start:
    """The newest sound checkpoint, that of a step, or the best one; damaged ones are named.

    progress: told how many bytes were verified.  saved_step: the step whose state run.json says is saved.
    Raises InputError where the wished one is not there, RefusedError where it, or every one, is damaged.
    """
    if wish == "newest":
        return Start(newest(run, notify, progress, saved_step))
    if wish == "best":
        return Start(best(run, notify, progress, saved_step))
    if wish == 0:
        refuse_step_0(run)
        return Start(None)
    return Start(at_step(run, wish, progress))


def refuse_step_0(run: RunDirectory) -> None:
    """A migrated run has no step 0.  Raises InputError."""
    origin = origin_of(run)
    if origin is not None:
        raise InputError(
            f"{run.name} begins at step {origin.step:,} with a migrated state: it has no step 0",
            where=str(run.migration_file),
            hints=[
                "`llmrun migrate` makes that state again, `llmrun train` begins at step 0 with this config"
            ],
        )


def newest(
    run: RunDirectory, notify: Notify, progress: Progress | None = None, saved_step: int = 0
) -> Checkpoint | None:
    """The newest sound checkpoint; None if none was ever committed.

    Raises RefusedError if none is sound, or if none is there although the run saved step `saved_step`.
    """
    if saved_step and not steps_in(run.checkpoints):
        raise RefusedError(
            f"{run.name} saved its state after step {saved_step:,}, and it has no checkpoint any more",
            where=str(run.checkpoints),
            hints=["restore one from a copy", "`--from 0` computes the run again from step 0"],
        )
    if not steps_in(run.checkpoints):
        refuse_step_0(run)
        notify("no checkpoint was committed yet: starting at step 0")
        return None
    checkpoint, damages = newest_sound(run.checkpoints, progress, record_check=record_check_of(run))
    if checkpoint is None:
        raise RefusedError(
            f"{run.name} has checkpoints and none of them is sound",
            where=str(run.checkpoints),
            caused_by=[str(damage) for damage in damages],
            hints=["restore one from a copy", "`--from 0` starts the run anew from step 0"],
        )
    for line in passed_over(damages):
        notify(line)
    if checkpoint.step < saved_step:
        notify(
            f"the state after step {saved_step:,} was saved and is missing or damaged: "
            f"continuing from step {checkpoint.step:,}, steps {checkpoint.step + 1:,} to {saved_step:,} are "
            "computed again"
        )
    return checkpoint


def passed_over(damages: list[Damage]) -> list[str]:
    """One line for each damaged checkpoint, naming its first damage."""
    first: dict[str, Damage] = {}
    for damage in damages:
        first.setdefault(damage.checkpoint, damage)
    return [f"passing over damaged checkpoint {damage}" for damage in first.values()]


def best(
    run: RunDirectory, notify: Notify, progress: Progress | None = None, saved_step: int = 0
) -> Checkpoint | None:
    """The committed checkpoint of the best val_ppl, as the newest sound one knows it."""
    known = newest(run, notify, progress, saved_step)
    best_step = None if known is None else best_step_of(known)
    if best_step is None:
        raise InputError(
            f"{run.name} has no best checkpoint: no best val_ppl was saved yet",
            hints=["`--from STEP`, or without `--from` from the newest sound checkpoint"],
        )
    return at_step(run, best_step, progress)


def at_step(run: RunDirectory, step: int, progress: Progress | None = None) -> Checkpoint:
    """The sound checkpoint of exactly this step."""
    steps = steps_in(run.checkpoints)
    if step not in steps:
        there = ", ".join(str(known) for known in steps) or "none"
        raise InputError(
            f"{run.name} has no checkpoint of step {step}", hints=[f"there are checkpoints of steps: {there}"]
        )
    try:
        return open_checked(run.checkpoints / step_name(step), progress, record_check_of(run))
    except CheckpointDamage as error:
        raise RefusedError(
            f"the checkpoint of step {step} is damaged",
            where=str(run.checkpoints / step_name(step)),
            caused_by=[str(damage) for damage in error.damages],
            hints=["without `--from`, the newest sound checkpoint is taken"],
        ) from error
