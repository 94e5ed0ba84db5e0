"""A bar on a terminal while large checkpoints are read or written; nothing elsewhere, and nothing for small ones."""

from types import TracebackType
from typing import TYPE_CHECKING, Self

from llmrun.cli import console

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
