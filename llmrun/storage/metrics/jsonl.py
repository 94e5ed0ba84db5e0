"""metrics.jsonl: one JSON object per step, appended, read while it grows, and searched by step."""

import json
import math
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from llmrun.errors import DiskFullError, RunFailedError
from llmrun.storage.durable import DISK, DISK_FULL, Disk, json_bytes, open_to_append, replace_file
from llmrun.storage.metrics.names import STEP

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


Row = dict[str, Any]


def spell(value: Any) -> Any:
    """`value` with every non-finite number as a string, dicts and lists included."""
    if isinstance(value, dict):
        return {key: spell(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [spell(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def number(value: Any) -> float | None:
    """A number of a row as a float, strings of non-finite numbers included; None for anything else."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float):
        return float(value)
    return float(value) if value in ("NaN", "Infinity", "-Infinity") else None


def row_of(line: bytes) -> Row | None:
    """The object of one whole line; None where the line is torn or not a row."""
    if not line.endswith(b"\n"):
        return None
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and type(row.get(STEP)) is int else None


def rows(path: Path) -> Iterator[Row]:
    """All whole rows of a file in order; none where there is no file."""
    if path.exists():
        with path.open("rb") as file:
            for line in file:
                row = row_of(line)
                if row is not None:
                    yield row


TAIL_BYTES = 256 * 1024
"""Holds the last rows of any file of ours: a row has about 500 bytes."""


def last_step(path: Path) -> int | None:
    """The step of the last whole row, from the file's end alone; None if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            tail = file.read().splitlines(keepends=True)
    except OSError:
        return None
    return next((row[STEP] for line in reversed(tail) if (row := row_of(line)) is not None), None)


def missing_steps(path: Path, steps: range) -> list[range]:
    """The steps of `steps` that have no row in the file, as ranges in order."""
    seen = bytearray(len(steps))
    for row in rows(path):
        if row[STEP] in steps:
            seen[row[STEP] - steps.start] = 1
    found: list[range] = []
    start = seen.find(0)
    while start >= 0:
        end = seen.find(1, start)
        end = len(seen) if end < 0 else end
        found.append(steps[start:end])
        start = seen.find(0, end)
    return found


class JsonLines:
    """Appends rows to a file.  `cut_back` comes first where the file may have a torn last line."""

    def __init__(self, path: Path, disk: Disk = DISK) -> None:
        self._file = AppendedFile(path, disk)

    def write(self, row: Row) -> None:
        """Append one row: after this the process may be killed without losing it."""
        self._file.write(json_bytes(spell(row), indent=None))

    def sync(self) -> None:
        """Force the rows to the device: before a checkpoint commits, so that none below it is missing."""
        self._file.sync()

    def close(self) -> None:
        """Force the rows to the device and close the file."""
        self._file.close()


def cut_back(path: Path, step: int, disk: Disk = DISK) -> int:
    """Drop all rows above `step` and a torn last line, durably; returns how many lines were dropped.

    Nothing is touched where nothing is to be dropped.
    """
    if not path.exists():
        return 0
    dropped = sum(1 for _ in _lines(path, step, kept=False))
    if dropped:
        with disk_errors_named(path):
            replace_file(path, _lines(path, step, kept=True), disk)
    return dropped


def _lines(path: Path, step: int, *, kept: bool) -> Iterator[bytes]:
    """The lines with a row up to `step`, or all the others."""
    with path.open("rb") as file:
        for line in file:
            row = row_of(line)
            if kept is (row is not None and row[STEP] <= step):
                yield line


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


def row_at(path: Path, step: int) -> Row | None:
    """The last row at or before `step`; None where there is no file or no such row."""
    if not path.exists():
        return None
    with path.open("rb") as file:
        low, high = 0, os.fstat(file.fileno()).st_size
        found: Row | None = None
        while low < high:
            middle = (low + high) // 2
            start, row = _row_from(file, middle)
            if row is None or row[STEP] > step:
                high = middle
            else:
                found = row
                low = start + 1
        return found


def _row_from(file: BinaryIO, offset: int) -> tuple[int, Row | None]:
    """(where it starts, the first whole row that starts at `offset` or after it); None where there is none."""
    file.seek(max(offset - 1, 0))
    if offset:
        file.readline()
    while True:
        start = file.tell()
        line = file.readline()
        if not line:
            return start, None
        row = row_of(line)
        if row is not None:
            return start, row
