"""Progress on stderr: of long commands by stages, and a bar while large checkpoints are read."""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from llmrun.cli import console

INTERVAL_S = 0.2
PLAIN_INTERVAL_S = 10.0


class StageReport:
    """Says what is being done and how far it is; on a terminal in place, elsewhere now and then."""

    def __init__(self, *, live: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._live = live
        self._clock = clock
        self._stage = ""
        self._said_at = -INTERVAL_S

    def __call__(self, stage: str, done: int, total: int, unit: str = "bytes", /) -> None:
        """Report `done` of `total` units; bytes are shown in MB."""
        now, fresh, last = self._clock(), stage != self._stage, done >= total
        interval = INTERVAL_S if self._live else PLAIN_INTERVAL_S
        if not (fresh or (last and self._live) or now - self._said_at >= interval):
            return
        self._stage, self._said_at = stage, now
        whole = _quantity(total, unit)
        line = f"{stage} {_quantity(done, unit).split()[0]} of {whole}"
        if self._live:
            sys.stderr.write(f"\r\x1b[K{line}" + ("\n" if last else ""))
            sys.stderr.flush()
        else:
            console.note(line if not fresh else f"{stage} {whole}")


def _quantity(count: int, unit: str) -> str:
    return f"{count / 1e6:,.1f} MB" if unit == "bytes" else f"{count:,} {unit}"


def stage_report() -> StageReport:
    """The report for this process's stderr."""
    return StageReport(live=console.colours(sys.stderr))


if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

LARGE_BYTES = 256 * 1024 * 1024
"""Below this the work takes well under a second."""


class BytesBar:
    """Shows (bytes done, bytes in all) as a bar with speed and time left.

    Call it from any thread, one call at a time; a total that changes begins a new bar.  Leave the context to
    take the bar away.
    """

    def __init__(self, doing: str, screen: "Console", large_bytes: int = LARGE_BYTES) -> None:
        self._doing, self._screen, self._large_bytes = doing, screen, large_bytes
        self._live: Progress | None = None
        self._task: TaskID | None = None
        self._total = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def __call__(self, done: int, total: int) -> None:
        """Show how far it is."""
        if not self._screen.is_terminal or total < self._large_bytes:
            return
        if self._live is None or total != self._total:
            self._start(total)
        assert self._live is not None
        assert self._task is not None
        self._live.update(self._task, completed=done)
        if done >= total:
            self._stop()

    def _start(self, total: int) -> None:
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._stop()
        self._live = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(compact=True),
            console=self._screen,
            transient=True,
        )
        self._task, self._total = self._live.add_task(self._doing, total=total), total
        self._live.start()

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


def verifying() -> BytesBar:
    """The bar of a verification."""
    return BytesBar("verifying checkpoint", console.rich_console())
