"""Errors of the operating system while a run's files are read or written, as errors with an exit code."""

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from llmrun.errors import RefusedError, RunFailedError
from llmrun.storage.durable import DISK_FULL, TEMPORARY_PREFIX

NOT_WRITABLE = DISK_FULL | {errno.EROFS}


@contextmanager
def os_error_as(
    kind: type[RefusedError] | type[RunFailedError], path: Path, hints: Sequence[str] = ()
) -> Iterator[None]:
    """Turn an OSError within into an error of `kind` about `path`.

    BrokenPipeError (the reader of our output has left) and ENAMETOOLONG (reported by the command line) pass through.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise
        raise file_error(kind, path, error, hints) from error


@contextmanager
def attempting(what: str, path: Path | None = None) -> Iterator[None]:
    """Turn an OSError within into a RefusedError: `cannot <what>: <reason>`.

    what: a verb and its object, such as `read the metrics of the baseline's runs`.
    path: the place of the error if the system does not name a file.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        named = path if error.filename is None else os.fsdecode(error.filename)
        reason = error.strerror or str(error)
        raise RefusedError(f"cannot {what}: {reason}", where=None if named is None else str(named)) from error


def file_error(
    kind: type[RefusedError] | type[RunFailedError], path: Path, error: OSError, hints: Sequence[str] = ()
) -> RefusedError | RunFailedError:
    """An error of `kind` for what the system refused at `path` or below it, else at the file that it names."""
    reason = str(error) if error.errno is None else os.strerror(error.errno)
    verb = "write" if error.errno in NOT_WRITABLE else "use"
    where = None if error.filename is None else os.fsdecode(error.filename)
    named = str(path) if where is None or is_below(where, path) else where
    room = ["free space on that disk"] if error.errno in DISK_FULL else []
    return kind(f"cannot {verb} {named}: {reason}", where=where, hints=[*room, *hints])


def is_below(named: str, path: Path) -> bool:
    """Whether the file that the system names is `path`, lies below it, or is a temporary name of it.

    A file descriptor in place of a name counts as `path`.
    """
    if named.isdigit() or Path(named).name.startswith(f"{TEMPORARY_PREFIX}{path.name}"):
        return True
    absolute = Path(os.path.abspath(path))  # noqa: PTH100  symbolic links are kept, as in the system's own names
    return Path(os.path.abspath(named)).is_relative_to(absolute)  # noqa: PTH100
