"""What a person asks about checkpoints: which are there, how large, how good, whole or not."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmrun.checkpoint.contents import Checkpoint, open_checkpoint
from llmrun.checkpoint.errors import CheckpointDamage, Damage
from llmrun.checkpoint.layout import SUMS, step_name, step_of, steps_in
from llmrun.errors import InputError


@dataclass(frozen=True)
class Row:
    """One checkpoint.

    bytes: of all its files, as the file system says.  step, tokens, val_ppl, ranks: None where they cannot
    be known.  damages: what opening found; [] means that names, sizes, manifest and headers hold.
    """

    step: int | None
    path: Path
    bytes: int
    tokens: int | None
    val_ppl: float | None
    ranks: int | None
    damages: tuple[Damage, ...]

    def as_json(self) -> dict[str, Any]:
        """The row as a JSON object."""
        return {
            "step": self.step,
            "path": str(self.path),
            "bytes": self.bytes,
            "tokens": self.tokens,
            "val_ppl": self.val_ppl,
            "ranks": self.ranks,
            "whole": not self.damages,
            "damages": [damage.as_json() for damage in self.damages],
        }


def find_checkpoints(path: Path) -> list[Path]:
    """The checkpoint directories that `path` means, by ascending step.

    `path` is a run's directory, its `checkpoints/`, or one checkpoint.  Raises InputError for anything else.
    """
    if not path.is_dir():
        raise InputError(f"there is no directory {path}", hints=["give a run's directory, or a checkpoint's"])
    if step_of(path.name) is not None or (path / SUMS).exists():
        return [path]
    directory = checkpoints_of(path)
    return [directory / step_name(step) for step in steps_in(directory)]


def checkpoints_of(path: Path) -> Path:
    """The directory with a run's checkpoints, where `path` is the run's directory or that directory.

    Raises InputError.
    """
    if (path / "checkpoints").is_dir():
        return path / "checkpoints"
    if path.name == "checkpoints" and path.is_dir():
        return path
    if (path / "run.json").exists():
        return path / "checkpoints"
    raise InputError(
        f"{path} is neither a run nor a checkpoint",
        hints=["a run's directory holds run.json and checkpoints/; `llmrun runs list` shows all runs"],
    )


def row_of(path: Path) -> Row:
    """One checkpoint's row, damaged or not."""
    size = sum(entry.lstat().st_size for entry in path.iterdir())
    try:
        checkpoint = open_checkpoint(path)
    except CheckpointDamage as error:
        return Row(step_of(path.name), path, size, None, None, None, error.damages)
    manifest = checkpoint.manifest
    val_ppl = number_of(checkpoint.trainer, "val_ppl")
    return Row(manifest.step, path, size, manifest.tokens, val_ppl, manifest.world, ())


def best_step_of(checkpoint: Checkpoint) -> int | None:
    """The step of the best val_ppl of which a checkpoint was committed, as the trainer wrote it down."""
    step = checkpoint.trainer.get("best_saved_step")
    return step if isinstance(step, int) and not isinstance(step, bool) else None


def number_of(document: Mapping[str, Any], key: str) -> float | None:
    """A number in a JSON object; None where there is none."""
    value = document.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value)
