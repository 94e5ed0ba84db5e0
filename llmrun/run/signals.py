"""Stop signals: which ones ask a run to stop, as shells, terminals and batch systems send them, and what a launcher does.

SIGTERM, SIGINT and SIGUSR1 everywhere; SIGHUP when an ssh session closes; SIGUSR2 from LSF and SGE; SIGXCPU when a
limit of CPU time is near; SIGQUIT from a terminal or from `timeout -s QUIT`.

While workers run, the first signal sets a flag and asks for a save at the next step boundary (exit 75).  While a
segment is prepared there is nothing to save: the first signal ends the preparation at once (exit 75).  A second
signal stops at once (exit 128 + its number).
"""

import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
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
"""In a worker SIGUSR2 prints the stacks of all threads into its log."""

REPEAT_S = 0.5
"""A second signal within this time is the same request: `timeout` signals its child and then the whole process
group, and systemd sends SIGHUP right after SIGTERM."""

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


class StopRequest:
    """Catches the stop signals while it is entered; outside the main thread it catches none.

    first, second: the signals that came, None before.
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
        """Remember a signal; a third one changes nothing."""
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
        """Whether a signal belongs to the first request: the kernel repeats SIGXCPU every second."""
        if number == self.first == signal.SIGXCPU:
            return True
        return time.monotonic() - self._first_s < REPEAT_S

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Let the first signal end what is done here at once, wherever it is, until `hold` is called.

        Raises PreemptedError if a signal came.
        """
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
        """From here on a signal only sets the flag: files are changed.  Raises PreemptedError if one came before."""
        self._interrupts = False
        self.check()

    def check(self) -> None:
        """Before workers exist there is nothing to save.  Raises PreemptedError if a signal came."""
        if self.first is not None:
            raise PreemptedError(
                f"stopped by {self.first.name} before the first step: nothing was lost",
                hints=["run the same command again"],
            )
