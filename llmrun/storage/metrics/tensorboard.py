"""TensorBoard events: the scalars of metrics.jsonl under the same names, and texts.

The `tensorboard` package supplies the record format and the messages; it is imported when a file is opened.
Events are not buffered, so a killed run loses none.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llmrun.storage.durable import DISK, Disk, make_directories
from llmrun.storage.metrics.jsonl import AppendedFile, Row, number
from llmrun.storage.metrics.names import STEP

FILE_PREFIX = "events.out.tfevents."
"""TensorBoard recognises its files by `tfevents` and reads those of one directory in the order of their names."""


class TensorBoard:
    """The MetricsSink of TensorBoard: one file of events per segment, in `directory`.

    clock: wall time of events, in seconds.
    """

    name = "TensorBoard"

    def __init__(self, directory: Path, clock: Callable[[], float] = time.time, disk: Disk = DISK) -> None:
        self._directory = directory
        self._clock = clock
        self._disk = disk
        self._file: AppendedFile | None = None

    def open(self, from_step: int) -> None:
        """Start the next file of events; TensorBoard then drops the events above `from_step` that it read before.

        Raises ImportError, OSError and RunFailedError.
        """
        from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, types_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event_pb2, self._summary_pb2 = event_pb2, summary_pb2
        self._tensor_pb2, self._types_pb2 = tensor_pb2, types_pb2
        make_directories(self._directory, self._disk)
        n_before = sum(1 for _ in self._directory.glob(f"{FILE_PREFIX}*"))
        self._file = AppendedFile(self._directory / f"{FILE_PREFIX}{n_before:05d}", self._disk)
        self._records = RecordWriter(self._file)
        self._from_step = from_step
        self._write(0, file_version="brain.Event:2")
        # TensorBoard takes the first START for a beginning and drops steps only at the following ones.
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write(from_step + 1, session_log=start)

    def write_texts(self, texts: Mapping[str, str]) -> None:
        """Write texts, shown under TEXT.  Raises RunFailedError."""
        for name, text in texts.items():
            tensor = self._tensor_pb2.TensorProto(
                dtype=self._types_pb2.DT_STRING, string_val=[_fenced(text).encode()]
            )
            tensor.tensor_shape.dim.add(size=1)
            plugin = self._summary_pb2.SummaryMetadata.PluginData(plugin_name="text")
            metadata = self._summary_pb2.SummaryMetadata(plugin_data=plugin)
            value = self._summary_pb2.Summary.Value(tag=name, metadata=metadata, tensor=tensor)
            self._write(self._from_step, summary=self._summary_pb2.Summary(value=[value]))

    def write(self, row: Row) -> None:
        """Write the numbers of one row as scalars of its step, without nulls.  Raises RunFailedError."""
        value_of = self._summary_pb2.Summary.Value
        values = [
            value_of(tag=name, simple_value=value)
            for name, entry in row.items()
            if name != STEP and (value := number(entry)) is not None
        ]
        self._write(row[STEP], summary=self._summary_pb2.Summary(value=values))

    def sync(self) -> None:
        """Force the events to the device.  Raises RunFailedError."""
        assert self._file is not None, "not open"
        self._file.sync()

    def close(self) -> None:
        """Force the events to the device and close the file.  Raises RunFailedError."""
        if self._file is not None:
            self._file.close()

    def _write(self, step: int, **content: Any) -> None:
        event = self._event_pb2.Event(wall_time=self._clock(), step=step, **content)
        self._records.write(event.SerializeToString())


def _fenced(text: str) -> str:
    """`text` as a Markdown block that TensorBoard shows verbatim."""
    return f"```\n{text.rstrip()}\n```"
