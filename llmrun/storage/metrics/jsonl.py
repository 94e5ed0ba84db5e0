"""metrics.jsonl: one JSON object per step.  Writing, reading while it grows, and searching by step."""

import json
import math
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from llmrun.errors import DiskFullError, RunFailedError
from llmrun.storage.durable import DISK, DISK_FULL, Disk, json_bytes, open_to_append, replace_file
from llmrun.storage.metrics.names import STEP

WAITING_BYTES_MAX = 64 * 1024 * 1024
"""Rows that wait in memory for disk space; beyond it writing fails."""


@contextmanager
def disk_errors_named(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into a RunFailedError that names the file."""
    try:
        yield
    except OSError as error:
        kind = DiskFullError if error.errno in DISK_FULL else RunFailedError
        raise kind(
            f"cannot write {path.name}: {error.strerror or error}",
            where=str(path),
            hints=["make sure that the disk has room and is writable, then run `llmrun resume`"],
        ) from error


class AppendedFile:
    """Unbuffered appends to a file.  Every method raises RunFailedError if the disk fails.

    Thread-safe: one thread may sync while another writes, because training goes on while a checkpoint is committed.
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
        """Append `content`, which then survives a kill of the process.

        On a full disk it waits in memory.  Raises DiskFullError if more than WAITING_BYTES_MAX wait.
        """
        try:
            self._append(content)
        except DiskFullError:
            if len(self._waiting) > WAITING_BYTES_MAX:
                raise

    def sync(self) -> None:
        """Force all content to the device, so that it survives a power cut.

        Raises DiskFullError if content still waits for disk space.
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
        """Write what waits and `content`; what a full disk took before it failed is not written twice."""
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
    """`value` with each non-finite number as a string, also inside dicts and lists."""
    if isinstance(value, dict):
        return {key: spell(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [spell(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def number(value: Any) -> float | None:
    """A value of a row as a float (`spell` undone); None if it is not a number."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float):
        return float(value)
    return float(value) if value in ("NaN", "Infinity", "-Infinity") else None


def row_of(line: bytes) -> Row | None:
    """The row in one line with its newline; None if the line is torn or not a row."""
    if not line.endswith(b"\n"):
        return None
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and type(row.get(STEP)) is int else None


def rows(path: Path) -> Iterator[Row]:
    """All whole rows of a file in order; none if there is no file."""
    if path.exists():
        with path.open("rb") as file:
            for line in file:
                row = row_of(line)
                if row is not None:
                    yield row


TAIL_BYTES = 256 * 1024
"""Enough for the last rows of a file: a row has about 500 bytes."""


def last_step(path: Path) -> int | None:
    """The step of the last whole row in the file's last TAIL_BYTES; None if there is none."""
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
    """The MetricsSink of metrics.jsonl."""

    def __init__(self, path: Path, disk: Disk = DISK) -> None:
        self._path = path
        self._disk = disk
        self._file: AppendedFile | None = None

    @property
    def name(self) -> str:
        """The name of the file."""
        return self._path.name

    def open(self, from_step: int) -> None:
        """Drop rows above `from_step` and a torn last line, then open.  Raises RunFailedError."""
        cut_back(self._path, from_step, self._disk)
        self._file = AppendedFile(self._path, self._disk)

    def write_texts(self, texts: Mapping[str, str]) -> None:
        """Nothing: the run's directory holds the texts."""

    def write(self, row: Row) -> None:
        """Append one row.  Raises RunFailedError."""
        self._opened.write(json_bytes(spell(row), indent=None))

    def sync(self) -> None:
        """Force the rows to the device.  Raises RunFailedError."""
        self._opened.sync()

    def close(self) -> None:
        """Force the rows to the device and close the file.  Raises RunFailedError."""
        if self._file is not None:
            self._file.close()

    @property
    def _opened(self) -> AppendedFile:
        assert self._file is not None, f"{self._path} is not open"
        return self._file


def cut_back(path: Path, step: int, disk: Disk = DISK) -> int:
    """Remove all rows above `step` and a torn last line, durably.  Returns the number of lines removed.

    Raises RunFailedError.
    """
    if not path.exists():
        return 0
    dropped = sum(1 for _ in _lines(path, step, kept=False))
    if dropped:
        with disk_errors_named(path):
            replace_file(path, _lines(path, step, kept=True), disk)
    return dropped


def _lines(path: Path, step: int, *, kept: bool) -> Iterator[bytes]:
    """The lines with a row up to `step` (kept=True), or all others."""
    with path.open("rb") as file:
        for line in file:
            row = row_of(line)
            if kept is (row is not None and row[STEP] <= step):
                yield line


class Tail:
    """Follows a file that grows.  A file that was replaced or cut back is read again from its start."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode = 0
        self._offset = 0

    def new_rows(self) -> list[Row]:
        """The whole rows written since the last call; a torn last line is left for the next call."""
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
        """Start again if the path now leads to another file or a shorter one."""
        status = os.fstat(descriptor)
        if status.st_ino != self._inode or status.st_size < self._offset:
            self._inode, self._offset = status.st_ino, 0


def row_at(path: Path, step: int) -> Row | None:
    """The last row at or before `step`, by binary search; None if there is no file or no such row."""
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
    """(offset, row) of the first whole row that starts at `offset` or later; row is None at the end of the file."""
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
