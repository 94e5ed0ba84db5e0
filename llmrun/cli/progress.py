"""Progress of long work on stderr: a bar on a terminal, a plain line per stage and every ten seconds elsewhere."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Self

from llmrun.cli import console
from llmrun.text import counted, format_bytes

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from llmrun.storage.metrics.jsonl import Row

PLAIN_INTERVAL_S = 10.0

LARGE_BYTES = 256 * 1024 * 1024
"""Reading or writing less than this takes well under a second."""


class ProgressDisplay:
    """The progress of one stage after another.

    Call it from any thread, one call at a time.  Leaving the context removes the bar.

    least: totals below this are not shown.
    """

    def __init__(
        self,
        stream: "Console | None" = None,
        *,
        least: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = stream or console.rich_console()
        self._least, self._clock = least, clock
        self._stage: tuple[str, int | None] | None = None
        self._shown_at_s = 0.0
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __call__(self, stage: str, done: int, total: int | None, unit: str = "bytes", /) -> None:
        """Show that `done` of `total` units of `stage` are done.

        A new stage or another total begins a new bar.  total: None if it is not known.
        """
        if total is not None and total < self._least:
            return
        is_new = (stage, total) != self._stage
        self._stage = stage, total
        if self._console.is_terminal:
            self._draw(stage, done, total, unit, is_new=is_new)
        elif is_new or self._clock() - self._shown_at_s >= PLAIN_INTERVAL_S:
            self._shown_at_s = self._clock()
            amount = amount_done(None if is_new else done, total, unit)
            console.note(f"{stage}: {amount}")

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _draw(self, stage: str, done: int, total: int | None, unit: str, *, is_new: bool) -> None:
        if is_new or self._bar is None:
            self.close()
            self._bar = _bar(self._console)
            self._task = self._bar.add_task(stage, total=total, amount="")
            self._bar.start()
        assert self._task is not None
        self._bar.update(self._task, completed=done, amount=amount_done(done, total, unit))
        if total is not None and done >= total:
            self.close()


def _bar(stream: "Console") -> "Progress":
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[amount]}"),
        TimeRemainingColumn(compact=True),
        console=stream,
        transient=True,
    )


def amount_done(done: int | None, total: int | None, unit: str = "bytes") -> str:
    """`3.00 MB of 9.00 MB`, `12 of 300 merges`, `step 1,200`; without `done` only the total."""
    if total is None:
        return unit if done is None else f"{unit} {done:,}"
    whole = format_bytes(total) if unit == "bytes" else counted(total, unit.removesuffix("s"))
    if done is None:
        return whole
    return f"{format_bytes(done) if unit == 'bytes' else f'{done:,}'} of {whole}"


@contextmanager
def byte_progress(
    stage: str, stream: "Console | None" = None, least: int = LARGE_BYTES
) -> Iterator[Callable[[int, int], None]]:
    """Show the progress of one stage in bytes: call it with (bytes done, bytes in all)."""
    with ProgressDisplay(stream, least=least) as display:
        yield lambda done, total: display(stage, done, total)


class ReplayProgress:
    """Shows which step a replay executed last: a `SegmentObserver` that has nothing else to show."""

    def __init__(self) -> None:
        self._display = ProgressDisplay()

    def rows(self, rows: "Sequence[Row]") -> None:
        """Show the newest step."""
        self._display("replaying", rows[-1]["step"], None, "step")

    def checkpoint(self, step: int) -> None:
        """Ignore a checkpoint: it is scratch."""

    def warn(self, message: str) -> None:
        """Ignore a warning: the verdict covers it."""

    def stopping(self, message: str) -> None:
        """Ignore a stop request: a replay saves nothing."""

    def close(self) -> None:
        """Remove the bar."""
        self._display.close()


class CheckProgress:
    """Shows which execution of a check is under way: a `SegmentObserver` that has nothing else to show."""

    def __init__(self) -> None:
        stream = console.rich_console()
        self._is_terminal = stream.is_terminal
        self._display = ProgressDisplay(stream)

    def execution(self, title: str, done: int, total: int) -> None:
        """Show that an execution starts."""
        if self._is_terminal:
            self._display(title, done, total, "executions")
        else:
            console.note(f"{done + 1} of {total}: {title}")

    def rows(self, rows: "Sequence[Row]") -> None:
        """Ignore steps: there are few."""

    def checkpoint(self, step: int) -> None:
        """Ignore a checkpoint: it is scratch."""

    def warn(self, message: str) -> None:
        """Ignore a warning: the verdict covers it."""

    def stopping(self, message: str) -> None:
        """Ignore a stop request: a check saves nothing."""

    def close(self) -> None:
        """Remove the bar."""
        self._display.close()
