"""Finds one step in metrics.jsonl without reading all of it: its rows ascend."""

import os
from pathlib import Path
from typing import BinaryIO

from llmrun.metrics.jsonl import Row, row_of
from llmrun.metrics.names import STEP


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
