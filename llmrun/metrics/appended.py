"""A file that only ever grows: each write reaches the system at once, a sync reaches the device.

On a full disk what does not fit waits in memory and goes first once there is room: a run outlives a full disk.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llmrun.durable import DISK, DISK_FULL, Disk, open_to_append
from llmrun.errors import DiskFullError, RunFailedError

WAITING_BYTES_MAX = 64 * 1024 * 1024
"""What may wait for room; beyond it the run stops."""


@contextmanager
def disk_errors_named(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into a RunFailedError that names the file."""
    try:
        yield
    except OSError as error:
        kind = DiskFullError if error.errno in DISK_FULL else RunFailedError
        raise kind(
            f"{path.name} could not be written: {error.strerror or error}",
            where=str(path),
            hints=["see that the disk has room and can be written, then run `llmrun resume`"],
        ) from error


class AppendedFile:
    """Unbuffered appends.  Every method raises RunFailedError where the disk refuses: nothing is lost in silence.

    One thread may sync while another writes: the loop goes on while a checkpoint is committed.
    """

    def __init__(self, path: Path, disk: Disk = DISK) -> None:
        self._path = path
        self._disk = disk
        self._waiting = b""
        self._appending = threading.Lock()
        with disk_errors_named(path):
            self._descriptor = open_to_append(path, disk)
            self._size = disk.size(self._descriptor)

    def write(self, content: bytes) -> None:
        """Append `content`: after this the process may be killed without losing it.

        On a full disk it waits in memory.  Raises DiskFullError where too much waits already.
        """
        try:
            self._append(content)
        except DiskFullError:
            if len(self._waiting) > WAITING_BYTES_MAX:
                raise

    def sync(self) -> None:
        """Force all that was written to the device: a power cut does not take it either.

        Raises DiskFullError where something still waits for room.
        """
        self._append(b"")
        with disk_errors_named(self._path):
            self._disk.fsync(self._descriptor)

    def close(self) -> None:
        """Sync and close."""
        try:
            self.sync()
        finally:
            self._disk.close(self._descriptor)

    def _append(self, content: bytes) -> None:
        """Write what waits and `content`; a part that a full disk took is not written again."""
        with self._appending, disk_errors_named(self._path):
            self._waiting += content
            if not self._waiting:
                return
            try:
                self._disk.write(self._descriptor, memoryview(self._waiting))
            finally:
                size = self._disk.size(self._descriptor)
                self._waiting, self._size = self._waiting[size - self._size :], size
