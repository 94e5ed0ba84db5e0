"""What a running segment has to tell the user, read while it runs: one line each, in room kept on the disk.

A full disk is the first thing to tell, and then no file grows any more.
"""

import os
from contextlib import suppress
from pathlib import Path

from llmrun.storage.durable import DISK, Disk, as_utf8

REMARKS_BYTES = 64 * 1024


class WarningsWriter:
    """Writes lines into a file of REMARKS_BYTES zeros, from its beginning on.  Rank 0 only."""

    def __init__(self, path: Path, disk: Disk = DISK) -> None:
        self._descriptor: int | None = None
        self._size = 0
        with suppress(OSError):  # a gift: the outcome says all remarks once more
            self._descriptor = disk.create(path)
            disk.allocate(self._descriptor, 0, REMARKS_BYTES)

    def write(self, message: str) -> None:
        """One line; what does not fit any more is not written."""
        line = as_utf8(" ".join(message.split())) + b"\n"
        if self._descriptor is None or self._size + len(line) >= REMARKS_BYTES:
            return
        with suppress(OSError):
            os.pwrite(self._descriptor, line, self._size)
            self._size += len(line)


class WarningsTail:
    """The lines that came since the last look."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def new_lines(self) -> list[str]:
        """Whole lines only; none where there is no file."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                written = file.read(REMARKS_BYTES).split(b"\0", 1)[0]
        except OSError:
            return []
        whole = written[: written.rfind(b"\n") + 1]
        self._offset += len(whole)
        return whole.decode(errors="replace").splitlines()
