"""What can be wrong with a checkpoint, and what can go wrong while one is written."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from llmrun.errors import DamagedError, RunFailedError
from llmrun.storage.durable import DISK_FULL


@dataclass(frozen=True)
class Damage:
    """One thing that is wrong in a checkpoint directory.

    checkpoint: the directory's name.  file: a name in it.  says: one line about the file.
    """

    checkpoint: str
    file: str
    message: str

    def __str__(self) -> str:
        return f"{self.checkpoint}/{self.file} {self.message}"

    def as_json(self) -> dict[str, str]:
        """The damage as a JSON object."""
        return asdict(self)


class CheckpointDamage(DamagedError):
    """A checkpoint is not what was written: one or several files are named."""

    def __init__(self, damages: Sequence[Damage]) -> None:
        assert damages
        rest = [str(damage) for damage in damages[1:]]
        super().__init__(str(damages[0]), caused_by=rest)
        self.damages = tuple(damages)


def damaged(path: Path, message: str) -> CheckpointDamage:
    """The error for one file of a checkpoint, named by its path."""
    return CheckpointDamage([Damage(path.parent.name, path.name, message)])


class CheckpointWriteError(RunFailedError):
    """A checkpoint could not be written; the earlier ones are untouched.

    errno: that of the system's refusal, None where a rank or the pieces were at fault.
    """

    def __init__(self, message: str, *, code: int | None = None, hints: Sequence[str] = ()) -> None:
        super().__init__(message, hints=hints)
        self.errno = code

    @property
    def disk_full(self) -> bool:
        """Whether the disk, the quota or the file size limit was reached: a later try may work."""
        return self.errno in DISK_FULL


def write_error(checkpoint: str, cause: OSError, rank: int | None = None) -> CheckpointWriteError:
    """The typed error for a refusal of the system while `checkpoint` was written."""
    reason = os.strerror(cause.errno) if cause.errno is not None else str(cause)
    named = f" ({Path(os.fsdecode(cause.filename)).name})" if cause.filename is not None else ""
    who = f"rank {rank} could not write {checkpoint}" if rank is not None else f"{checkpoint} was not written"
    full = ["free space, or keep fewer checkpoints with `--set checkpoint.keep_last=1`"]
    hints = full if cause.errno in DISK_FULL else []
    return CheckpointWriteError(f"{who}: {reason}{named}", code=cause.errno, hints=hints)
