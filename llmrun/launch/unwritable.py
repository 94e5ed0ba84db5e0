"""What the system refuses while a run's files are written or read: a sentence and an exit code, no traceback."""

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from llmrun.errors import RefusedError, RunFailedError
from llmrun.storage.durable import DISK_FULL, TEMPORARY_PREFIX

UNWRITABLE = DISK_FULL | {errno.EROFS}


@contextmanager
def os_error_as(
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


@contextmanager
def attempting(what: str, path: Path | None = None) -> Iterator[None]:
    """An OSError within, while inputs are read, becomes a RefusedError: `cannot <what>: <reason>`.

    what: a verb and the role of what is read, such as `read the runs of the baseline`.
    path: shown if the system does not name the file.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        named = path if error.filename is None else os.fsdecode(error.filename)
        reason = error.strerror or str(error)
        raise RefusedError(f"cannot {what}: {reason}", where=None if named is None else str(named)) from error


def refused_by_system(
    kind: type[RefusedError] | type[RunFailedError], path: Path, error: OSError, hints: Sequence[str] = ()
) -> RefusedError | RunFailedError:
    """The error for what the system refused at `path` or below it; another file is named instead of `path`."""
    reason = str(error) if error.errno is None else os.strerror(error.errno)
    done = "written" if error.errno in UNWRITABLE else "used"
    where = None if error.filename is None else os.fsdecode(error.filename)
    named = str(path) if where is None or is_below(where, path) else where
    room = ["free space on that disk"] if error.errno in DISK_FULL else []
    return kind(f"{named} cannot be {done}: {reason}", where=where, hints=[*room, *hints])


def is_below(named: str, path: Path) -> bool:
    """Whether a file that the system names is `path`, lies below it, or is what `path` is first written as."""
    if named.isdigit() or Path(named).name.startswith(f"{TEMPORARY_PREFIX}{path.name}"):
        return True
    absolute = Path(os.path.abspath(path))  # noqa: PTH100  links stay: the system's own names are compared
    return Path(os.path.abspath(named)).is_relative_to(absolute)  # noqa: PTH100
