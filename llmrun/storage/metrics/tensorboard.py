"""TensorBoard events, written by rank 0 only: the scalars of metrics.jsonl under the same names, and texts.

The `tensorboard` package supplies the record format and the messages; it is imported when a file is opened.
Every event reaches the system at once, as rows of metrics.jsonl do, so a killed run loses none.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llmrun.storage.durable import DISK, Disk, make_directories
from llmrun.storage.metrics.jsonl import AppendedFile, Row, number
from llmrun.storage.metrics.names import STEP

FILE_PREFIX = "events.out.tfevents."
"""TensorBoard knows its files by `tfevents` and reads those of one directory in the order of their names."""


class TensorBoard:
    """One file of events per segment, in `directory`.

    from_step: the step that the segment goes on from; TensorBoard then drops what it read above that step.
    texts:     name -> text shown under TEXT: config, git commit, pip freeze.
    """

    def __init__(
        self,
        directory: Path,
        from_step: int,
        texts: Mapping[str, str],
        clock: Callable[[], float] = time.time,
        disk: Disk = DISK,
    ) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, types_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        make_directories(directory, disk)
        self._event_pb2, self._summary_pb2 = event_pb2, summary_pb2
        self._clock = clock
        n_before = sum(1 for _ in directory.glob(f"{FILE_PREFIX}*"))
        self._file = AppendedFile(directory / f"{FILE_PREFIX}{n_before:05d}", disk)
        self._records = RecordWriter(self._file)
        self._write(0, file_version="brain.Event:2")
        # TensorBoard takes the first START for a beginning and drops steps only at the following ones.
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write(from_step + 1, session_log=start)
        for name, text in texts.items():
            tensor = tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, string_val=[_fenced(text).encode()])
            tensor.tensor_shape.dim.add(size=1)
            plugin = summary_pb2.SummaryMetadata.PluginData(plugin_name="text")
            metadata = summary_pb2.SummaryMetadata(plugin_data=plugin)
            value = summary_pb2.Summary.Value(tag=name, metadata=metadata, tensor=tensor)
            self._write(from_step, summary=summary_pb2.Summary(value=[value]))

    def write(self, row: Row) -> None:
        """The numbers of one row as scalars of its step; a null is left out."""
        value_of = self._summary_pb2.Summary.Value
        values = [
            value_of(tag=name, simple_value=value)
            for name, entry in row.items()
            if name != STEP and (value := number(entry)) is not None
        ]
        self._write(row[STEP], summary=self._summary_pb2.Summary(value=values))

    def sync(self) -> None:
        """Force the events to the device."""
        self._file.sync()

    def close(self) -> None:
        """Force the events to the device and close the file."""
        self._file.close()

    def _write(self, step: int, **content: Any) -> None:
        event = self._event_pb2.Event(wall_time=self._clock(), step=step, **content)
        self._records.write(event.SerializeToString())


def _fenced(text: str) -> str:
    """`text` as a Markdown block that TensorBoard shows letter for letter."""
    return f"```\n{text.rstrip()}\n```"
