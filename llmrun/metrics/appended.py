"""A file that only ever grows: each write reaches the system at once, a sync reaches the device."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llmrun.durable import DISK, Disk
from llmrun.errors import RunFailedError


@contextmanager
def disk_errors_named(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into a RunFailedError that names the file."""
    try:
        yield
    except OSError as error:
        raise RunFailedError(
            f"{path.name} could not be written: {error.strerror or error}",
            where=str(path),
            hints=["see that the disk has room and can be written, then run `llmrun resume`"],
        ) from error


class AppendedFile:
    """Unbuffered appends.  Every method raises RunFailedError where the disk refuses: nothing is lost in silence."""

    def __init__(self, path: Path, disk: Disk = DISK) -> None:
        self._path = path
        self._disk = disk
        with disk_errors_named(path):
            self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)

    def write(self, content: bytes) -> None:
        """Append `content`: after this the process may be killed without losing it."""
        with disk_errors_named(self._path):
            self._disk.write(self._descriptor, memoryview(content))

    def sync(self) -> None:
        """Force all that was written to the device: a power cut does not take it either."""
        with disk_errors_named(self._path):
            self._disk.fsync(self._descriptor)

    def close(self) -> None:
        """Sync and close."""
        try:
            self.sync()
        finally:
            self._disk.close(self._descriptor)
