"""Errors of checkpoints: damage that was found, and failures while one is written."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from llmrun.errors import DamagedError, RunFailedError
from llmrun.storage.durable import DISK_FULL

DamageKind = Literal[
    "missing", "unexpected", "link", "unreadable", "size", "checksum", "format", "contradiction"
]
"""missing, unexpected: names in the directory.  link: a symbolic link.  unreadable: the system refuses, or the file is
not a regular one.  size: too short, too long.  checksum: other bytes.  format: content that cannot be parsed.
contradiction: two statements of one fact that disagree."""


@dataclass(frozen=True)
class Damage:
    """One thing that is wrong in a checkpoint directory.

    checkpoint: the directory's name.  file: a name in it, `.` for the directory itself.
    message:    one line that continues the file's name.
    """

    checkpoint: str
    file: str
    message: str
    kind: DamageKind = "format"

    def __str__(self) -> str:
        return f"{self.checkpoint}/{self.file} {self.message}"

    def as_json(self) -> dict[str, str]:
        """The damage as a JSON object."""
        return asdict(self)


class CheckpointDamage(DamagedError):
    """A checkpoint is not what was written; `damages` names one or several files."""

    def __init__(self, damages: Sequence[Damage]) -> None:
        assert damages
        rest = [str(damage) for damage in damages[1:]]
        super().__init__(str(damages[0]), caused_by=rest)
        self.damages = tuple(damages)


def damaged(path: Path, message: str, kind: DamageKind = "format") -> CheckpointDamage:
    """The error for one file of a checkpoint, named by its path."""
    return CheckpointDamage([Damage(path.parent.name, path.name, message, kind)])


class CheckpointWriteError(RunFailedError):
    """A checkpoint could not be written; the earlier ones are untouched.

    errno: of the system's error; None if a rank or the pieces were at fault.
    """

    def __init__(self, message: str, *, code: int | None = None, hints: Sequence[str] = ()) -> None:
        super().__init__(message, hints=hints)
        self.errno = code

    @property
    def disk_full(self) -> bool:
        """Whether the disk, a quota or the file size limit was reached: a later try may work."""
        return self.errno in DISK_FULL


def write_error(checkpoint: str, cause: OSError, rank: int | None = None) -> CheckpointWriteError:
    """The error for an OSError while `checkpoint` was written; rank: None if it was committed."""
    reason = os.strerror(cause.errno) if cause.errno is not None else str(cause)
    file = f" ({Path(os.fsdecode(cause.filename)).name})" if cause.filename is not None else ""
    failed = f"cannot commit {checkpoint}" if rank is None else f"rank {rank} cannot write {checkpoint}"
    full = ["free space, or keep fewer checkpoints with `--set checkpoint.keep_last=1`"]
    hints = full if cause.errno in DISK_FULL else []
    return CheckpointWriteError(f"{failed}: {reason}{file}", code=cause.errno, hints=hints)
