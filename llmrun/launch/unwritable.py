"""What the system refuses while a run's files are written or read: a sentence and an exit code, no traceback."""

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from llmrun.durable import DISK_FULL
from llmrun.errors import RefusedError, RunFailedError

UNWRITABLE = DISK_FULL | {errno.EROFS}


@contextmanager
def said_as(
    kind: type[RefusedError] | type[RunFailedError], path: Path, hints: Sequence[str] = ()
) -> Iterator[None]:
    """An OSError within becomes an error of `kind` about `path`; a reader of our output who left stays one."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise  # the entry of the command line has words for it
        raise refused_by_system(kind, path, error, hints) from error


def refused_by_system(
    kind: type[RefusedError] | type[RunFailedError], path: Path, error: OSError, hints: Sequence[str] = ()
) -> RefusedError | RunFailedError:
    """The error for what the system refused at `path` or below it."""
    reason = str(error) if error.errno is None else os.strerror(error.errno)
    done = "written" if error.errno in UNWRITABLE else "used"
    where = None if error.filename is None else os.fsdecode(error.filename)
    room = ["free space on that disk"] if error.errno in DISK_FULL else []
    return kind(f"{path} cannot be {done}: {reason}", where=where, hints=[*room, *hints])
