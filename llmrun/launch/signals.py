"""Requests to stop: SIGTERM, SIGINT and SIGUSR1 set a flag, nothing is done inside a handler.

The first one asks for a save at the next step boundary (exit 75); the second one stops at once
(exit 128 + its number).
"""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from llmrun.errors import PreemptedError

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopRequest:
    """Catches the stop signals while it is entered; outside the main thread it catches none.

    first, second: the signals that came, None before.
    """

    def __init__(self) -> None:
        self.first: signal.Signals | None = None
        self.second: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
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
            self.first = signal.Signals(number)
        elif self.second is None:
            self.second = signal.Signals(number)

    def check(self) -> None:
        """Before workers exist there is nothing to save.  Raises PreemptedError where a signal came."""
        if self.first is not None:
            raise PreemptedError(
                f"stopped by {self.first.name} before the first step: nothing was lost",
                hints=["run the same command again"],
            )
