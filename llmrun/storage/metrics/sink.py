"""The destinations of a run's metrics: the MetricsSink interface, and the fan-out to all sinks of a segment.

A new destination is a class with the methods of MetricsSink, passed to `MetricsSinks.open`.
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Protocol, Self

from llmrun.errors import DiskFullError, LlmrunError
from llmrun.storage.metrics.jsonl import Row


class MetricsSink(Protocol):
    """One destination of metrics.  Every method may raise.

    name: for warnings, such as `metrics.jsonl`.
    """

    @property
    def name(self) -> str:
        """The name that warnings use."""
        ...

    def open(self, from_step: int) -> None:
        """Open for a segment that continues after `from_step` finished steps; drop rows above that step."""
        ...

    def write_texts(self, texts: Mapping[str, str]) -> None:
        """Write texts by name (config, git commit, packages); a sink may ignore them."""
        ...

    def write(self, row: Row) -> None:
        """Write one row: quantities of `storage.metrics.names` for one step, in ascending order of steps.

        The row must survive a kill of the process.
        """
        ...

    def sync(self) -> None:
        """Force all rows to the device, so that they survive a power cut.  Called on another thread than `write`.

        Raises DiskFullError if rows still wait for disk space.
        """
        ...

    def close(self) -> None:
        """Sync and close.  Called once, also after a failed `open`."""
        ...


class MetricsSinks:
    """Passes rows to all sinks.  Rank 0 only.

    A sink that fails is dropped with one warning, and training goes on.  A full disk is not a failure as long as the
    sink can keep its rows in memory: `sync` then raises DiskFullError, so that no checkpoint is committed without them.
    """

    def __init__(self, sinks: Iterable[MetricsSink], warn: Callable[[str], None]) -> None:
        self._sinks = list(sinks)
        self._warn = warn
        self._dropping = threading.Lock()  # `sync` runs on another thread than `write`

    @classmethod
    def open(
        cls,
        sinks: Iterable[MetricsSink],
        from_step: int,
        texts: Mapping[str, str],
        warn: Callable[[str], None],
    ) -> Self:
        """Open `sinks` for a segment that continues after `from_step`.

        texts: name -> text.  warn: called once for each sink that fails, also later.
        """
        opened = cls(sinks, warn)
        opened._apply(lambda sink: sink.open(from_step))
        opened._apply(lambda sink: sink.write_texts(texts))
        return opened

    def write(self, row: Row) -> None:
        """Write one row to every sink."""
        self._apply(lambda sink: sink.write(row))

    def sync(self) -> None:
        """Force everything to the device: before a checkpoint is committed.

        Raises DiskFullError if rows still wait for disk space.
        """
        self._apply(lambda sink: sink.sync(), passes=(DiskFullError,))

    def close(self) -> None:
        """Force everything to the device and close all sinks."""
        self._apply(lambda sink: sink.close())
        self._sinks.clear()

    def _apply(self, action: Callable[[MetricsSink], None], passes: tuple[type[Exception], ...] = ()) -> None:
        for sink in list(self._sinks):
            try:
                action(sink)
            except passes:
                raise
            except Exception as error:  # noqa: BLE001  no failure of a sink may stop training
                self._drop(sink, error)

    def _drop(self, sink: MetricsSink, error: Exception) -> None:
        with self._dropping:
            if sink not in self._sinks:
                return
            self._sinks.remove(sink)
        with suppress(Exception):
            sink.close()
        reason = error.message if isinstance(error, LlmrunError) else f"{type(error).__name__}: {error}"
        self._warn(f"metrics are no longer written to {sink.name}: {reason}")
