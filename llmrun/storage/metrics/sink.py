"""Where a run's metrics go: metrics.jsonl always, TensorBoard where it is wanted."""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

from llmrun.storage.metrics.jsonl import JsonLines, Row, cut_back
from llmrun.storage.metrics.tensorboard import TensorBoard


class Sinks:
    """Hands every row to metrics.jsonl and to TensorBoard.  Rank 0 only."""

    def __init__(self, lines: JsonLines, tensorboard: TensorBoard | None = None) -> None:
        self._all = (lines,) if tensorboard is None else (lines, tensorboard)

    @classmethod
    def open(cls, lines: Path, tensorboard: Path | None, from_step: int, texts: Mapping[str, str]) -> Self:
        """Open both for a segment that goes on from `from_step`: what was recorded above it is dropped.

        lines: the file metrics.jsonl.  tensorboard: the directory of events.
        texts: name -> text for TensorBoard.
        """
        cut_back(lines, from_step)
        board = None if tensorboard is None else TensorBoard(tensorboard, from_step, texts)
        return cls(JsonLines(lines), board)

    def record(self, row: Row) -> None:
        """Record one step.  Raises RunFailedError where the disk refuses."""
        for sink in self._all:
            sink.write(row)

    def sync(self) -> None:
        """Force everything to the device: before a checkpoint commits."""
        for sink in self._all:
            sink.sync()

    def close(self) -> None:
        """Force everything to the device and close."""
        for sink in self._all:
            sink.close()
