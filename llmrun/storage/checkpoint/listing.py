"""The checkpoints below a path: their steps, sizes, val_ppl and damage, for lists and screens."""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmrun.errors import InputError
from llmrun.storage.checkpoint.errors import CheckpointDamage, Damage
from llmrun.storage.checkpoint.layout import ABANDONED_PREFIX, SUMS, step_name, step_of, steps_in
from llmrun.storage.checkpoint.reader import Checkpoint, open_checkpoint
from llmrun.storage.checkpoint.verification import Progress, RecordCheck, open_checked
from llmrun.storage.durable import TEMPORARY_PREFIX


@dataclass(frozen=True)
class CheckpointRow:
    """One checkpoint.

    step, tokens, val_ppl, ranks: None if unknown.
    bytes:     of all its files; None for a symbolic link, whose target is not the run's.
    damages:   that opening it found; () if names, sizes, manifest and headers agree.
    best_step: of the best val_ppl saved until then.
    """

    step: int | None
    path: Path
    bytes: int | None
    tokens: int | None
    val_ppl: float | None
    ranks: int | None
    damages: tuple[Damage, ...]
    best_step: int | None = None

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
    """The checkpoint directories at `path`, by ascending step.

    path: a run's directory, its `checkpoints/`, or one checkpoint.  Raises InputError for anything else.
    """
    if not path.is_dir():
        raise InputError(
            f"there is no directory {path}", hints=["give the directory of a run or of a checkpoint"]
        )
    if is_checkpoint(path):
        return [path]
    directory = checkpoints_of(path)
    return [directory / step_name(step) for step in steps_in(directory)]


def is_checkpoint(path: Path) -> bool:
    """Whether a directory is a checkpoint, sound or damaged: by its name or by its SHA256SUMS."""
    return step_of(path.name) is not None or (path / SUMS).exists()


def checkpoints_of(path: Path) -> Path:
    """The `checkpoints/` of a run.  path: the run's directory, or `checkpoints/` itself.  Raises InputError."""
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


def damages_of(
    path: Path, record_check: RecordCheck | None = None, progress: Progress | None = None
) -> list[Damage] | None:
    """The damage of a checkpoint, every byte of which is read; None if its run deletes it meanwhile.

    record_check: also compares its state with what its run recorded.
    """
    try:
        open_checked(path, progress, record_check)
    except CheckpointDamage as error:
        return list(error.damages) if path.exists() else None
    except InputError:
        return None
    return []


def row_of(path: Path) -> CheckpointRow | None:
    """One checkpoint's row, damaged or not; None if its run deletes it meanwhile."""
    size = None
    try:
        size = bytes_in(path)
        checkpoint = open_checkpoint(path)
    except (FileNotFoundError, InputError):
        return None
    except PermissionError as error:
        message = f"cannot be read: {error.strerror}"
        return CheckpointRow(
            step_of(path.name), path, 0, None, None, None, (Damage(path.name, ".", message, "unreadable"),)
        )
    except CheckpointDamage as error:
        if not path.exists():
            return None
        return CheckpointRow(step_of(path.name), path, size, None, None, None, error.damages)
    manifest = checkpoint.manifest
    val_ppl = number_of(checkpoint.trainer, "val_ppl")
    best_step = best_step_of(checkpoint)
    return CheckpointRow(manifest.step, path, size, manifest.tokens, val_ppl, manifest.world, (), best_step)


def bytes_in(path: Path) -> int | None:
    """The size of a checkpoint's files in bytes; None for a symbolic link.  Raises OSError."""
    if step_of(path.name) is not None and path.is_symlink():
        return None
    return sum(entry.lstat().st_size for entry in path.iterdir())


@dataclass(frozen=True)
class Leftover:
    """A hidden or abandoned directory that takes space.  message: what it is, and who removes it."""

    name: str
    bytes: int
    message: str


def leftovers(path: Path) -> list[Leftover]:
    """The hidden and abandoned directories of a run; [] if `path` is one checkpoint."""
    if is_checkpoint(path):
        return []
    directory = checkpoints_of(path)
    names = sorted(entry.name for entry in directory.iterdir()) if directory.is_dir() else []
    kinds = (
        (TEMPORARY_PREFIX, "unfinished or deleted: removed by the next save or start"),
        (ABANDONED_PREFIX, "moved away by a resume from an earlier step: never read, may be deleted"),
    )
    return [
        Leftover(name, _bytes_below(directory / name), message)
        for prefix, message in kinds
        for name in names
        if name.startswith(prefix)
    ]


def _bytes_below(directory: Path) -> int:
    """The size in bytes of all files below a directory that may be removed meanwhile."""
    total = 0
    for parent, _, files in os.walk(directory):
        for name in files:
            with suppress(OSError):
                total += (Path(parent) / name).lstat().st_size
    return total


def best_step_of(checkpoint: Checkpoint) -> int | None:
    """The step of the committed checkpoint with the best val_ppl, from trainer.json; None if it has none."""
    step = checkpoint.trainer.get("best_saved_step")
    return step if isinstance(step, int) and not isinstance(step, bool) else None


def number_of(document: Mapping[str, Any], key: str) -> float | None:
    """The number at `key` of a JSON object; None for anything else."""
    value = document.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value)
