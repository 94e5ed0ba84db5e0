"""Warnings of a running segment, read while it runs: logs/segment-NNN/remarks.txt, one line each.

The file is allocated at its full size, so that the warning of a full disk can be written.
"""

import os
from contextlib import suppress
from pathlib import Path

from llmrun.storage.durable import DISK, Disk, as_utf8

WARNINGS_BYTES = 64 * 1024


class WarningsWriter:
    """Writes lines into a file of WARNINGS_BYTES zeros.  Rank 0 only.

    Best effort: the outcome has all warnings too.
    """

    def __init__(self, path: Path, disk: Disk = DISK) -> None:
        self._descriptor: int | None = None
        self._size = 0
        with suppress(OSError):
            self._descriptor = disk.create(path)
            disk.allocate(self._descriptor, 0, WARNINGS_BYTES)

    def write(self, message: str) -> None:
        """Write one line, unless it no longer fits."""
        line = as_utf8(" ".join(message.split())) + b"\n"
        if self._descriptor is None or self._size + len(line) >= WARNINGS_BYTES:
            return
        with suppress(OSError):
            os.pwrite(self._descriptor, line, self._size)
            self._size += len(line)


class WarningsTail:
    """Reads the lines that were written since the last call."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def new_lines(self) -> list[str]:
        """The new whole lines; [] if there is no file."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                written = file.read(WARNINGS_BYTES).split(b"\0", 1)[0]
        except OSError:
            return []
        whole = written[: written.rfind(b"\n") + 1]
        self._offset += len(whole)
        return whole.decode(errors="replace").splitlines()
