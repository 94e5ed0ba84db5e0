"""metrics.jsonl: one JSON object per step, appended and handed to the system at every step.

Numbers that JSON cannot say are strings: "NaN", "Infinity", "-Infinity".
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmrun.durable import DISK, Disk, json_bytes, replace_file
from llmrun.metrics.appended import AppendedFile, disk_errors_named
from llmrun.metrics.names import STEP

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
