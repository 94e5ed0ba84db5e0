"""The way in: open one checkpoint, verify it, or find the newest sound one.  Needs no torch."""

from pathlib import Path

from llmrun.checkpoint.contents import Checkpoint, open_checkpoint
from llmrun.checkpoint.errors import CheckpointDamage, Damage
from llmrun.checkpoint.layout import step_name, steps_in
from llmrun.checkpoint.recorded_state import Judge
from llmrun.checkpoint.verification import Progress, open_verified, verify_files

__all__ = [
    "Checkpoint",
    "Damage",
    "newest_sound",
    "open_checkpoint",
    "open_judged",
    "open_verified",
    "verify_files",
]


def open_judged(path: Path, progress: Progress | None = None, judge: Judge | None = None) -> Checkpoint:
    """Open a checkpoint after reading every byte of it and holding it against what its run recorded.

    Raises CheckpointDamage if its files are damaged or it is another state than the recorded one, InputError
    if there is no such directory.
    """
    checkpoint = open_verified(path, progress)
    damages = () if judge is None else judge(checkpoint)
    if damages:
        raise CheckpointDamage(damages)
    return checkpoint


def newest_sound(
    checkpoints_dir: Path,
    progress: Progress | None = None,
    step_max: int | None = None,
    judge: Judge | None = None,
) -> tuple[Checkpoint | None, list[Damage]]:
    """The newest sound checkpoint of a run, at or below `step_max`, and the damage of all newer ones.

    judge: also holds each against what the run recorded of its step (`recorded_state.judge_of`).
    (None, []) where there is no checkpoint at all; (None, damages) where none is sound.
    """
    damages: list[Damage] = []
    for step in reversed(steps_in(checkpoints_dir)):
        if step_max is not None and step > step_max:
            continue
        try:
            return open_judged(checkpoints_dir / step_name(step), progress, judge), damages
        except CheckpointDamage as error:
            damages += error.damages
    return None, damages
