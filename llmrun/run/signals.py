"""Stop signals and the two ways to act on them: LauncherStopRequest and WorkerStopRequest.

Shells, terminals and batch systems ask a run to stop with SIGTERM, SIGINT or SIGUSR1; with SIGHUP when an ssh session
closes; SIGUSR2 from LSF and SGE; SIGXCPU when a limit of CPU time is near; SIGQUIT from a terminal.

While workers run, the first signal sets a flag, and all ranks save and stop at the next step boundary (exit 75).  While
a segment is prepared there is nothing to save: the first signal ends the preparation (exit 75).  A second signal stops
at once (exit 128 + its number).
"""

import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from llmrun.errors import PreemptedError

STOP_SIGNALS = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGHUP,
    signal.SIGXCPU,
    signal.SIGQUIT,
)

WORKER_STOP_SIGNALS = tuple(number for number in STOP_SIGNALS if number != signal.SIGUSR2)
"""In a worker SIGUSR2 prints the stacks of all threads to its log."""

REPEAT_S = 0.5
"""Signals within this time are one request: `timeout` signals its child and then the whole process group, and systemd
sends SIGHUP right after SIGTERM."""

STOP_EXIT_CODE = 128
"""Added to a signal's number: the exit code of a process that the signal stopped."""


def signals_to_catch(numbers: Iterable[signal.Signals] = STOP_SIGNALS) -> list[signal.Signals]:
    """`numbers`, without SIGHUP if it is ignored, as it is under nohup."""
    return [
        number
        for number in numbers
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN
    ]


class PreparationStopped(BaseException):
    """Raised by a stop signal, in the main thread, while a segment is prepared."""


class LauncherStopRequest:
    """Catches the stop signals inside its `with` block; catches none outside the main thread.

    first, second: the signals received, or None.
    """

    def __init__(self) -> None:
        self.first: signal.Signals | None = None
        self.second: signal.Signals | None = None
        self._first_s = 0.0
        self._interrupts = self._cleans_up = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in signals_to_catch():
                self._previous[number] = signal.signal(number, self._caught)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _caught(self, number: int, _frame: FrameType | None) -> None:
        """The signal handler; a third signal changes nothing."""
        if self.first is None:
            self.first, self._first_s = signal.Signals(number), time.monotonic()
            if self._interrupts:
                self._interrupts, self._cleans_up = False, True
                raise PreparationStopped
        elif self.second is None and not self._is_repeated(number):
            self.second = signal.Signals(number)
            if self._cleans_up:
                os._exit(STOP_EXIT_CODE + number)

    def _is_repeated(self, number: int) -> bool:
        """Whether a signal belongs to the first request; the kernel repeats SIGXCPU every second."""
        if number == self.first == signal.SIGXCPU:
            return True
        return time.monotonic() - self._first_s < REPEAT_S

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Inside this block the first signal raises PreemptedError at once, until `hold` is called."""
        self._interrupts = True
        try:
            self.check()
            yield
        except PreparationStopped:
            self.check()
            raise
        finally:
            self._interrupts = self._cleans_up = False

    def hold(self) -> None:
        """From now on a signal only sets the flag, because files are changed.  Raises PreemptedError if one came before."""
        self._interrupts = False
        self.check()

    def check(self) -> None:
        """Raise PreemptedError if a signal came; for the time before workers run, when there is nothing to save."""
        if self.first is not None:
            raise PreemptedError(
                f"stopped by {self.first.name} before the first step: nothing was lost",
                hints=["run the same command again"],
            )


class WorkerStopRequest:
    """Whether this rank was asked to stop, by a signal or by the launcher's stop file.

    A signal only sets a flag; all ranks act on it together at a step boundary.
    """

    def __init__(self, stop_file: Path) -> None:
        self._stop_file = stop_file
        self._signalled = False

    def listen(self) -> None:
        """Set the flag on every stop signal, also on one that came while the agent had them blocked."""
        for number in signals_to_catch(WORKER_STOP_SIGNALS):
            signal.signal(number, self._caught)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    def _caught(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self._signalled = True

    def is_set(self, *, look_for_file: bool) -> bool:
        """Whether to stop.  look_for_file: also look for the stop file; on rank 0 only."""
        return self._signalled or (look_for_file and self._stop_file.exists())
