"""Reads metrics.jsonl while it grows: the launcher shows what the worker writes."""

import os
from pathlib import Path

from llmrun.metrics.jsonl import Row, row_of


class Tail:
    """The rows of a file that came since the last look.

    A file that was replaced or cut back is read again from its start.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode = 0
        self._offset = 0

    def new_rows(self) -> list[Row]:
        """The whole rows that came since the last call; a torn last line waits for its end."""
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return []
        with file:
            self._follow(file.fileno())
            file.seek(self._offset)
            whole = [line for line in file if line.endswith(b"\n")]
        self._offset += sum(len(line) for line in whole)
        return [row for line in whole if (row := row_of(line)) is not None]

    def _follow(self, descriptor: int) -> None:
        """Start again where the name now leads to another file or to a shorter one."""
        status = os.fstat(descriptor)
        if status.st_ino != self._inode or status.st_size < self._offset:
            self._inode, self._offset = status.st_ino, 0
