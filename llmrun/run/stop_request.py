"""Requests to stop: signals only set a flag; all ranks act on it together at a step boundary."""

import signal
from pathlib import Path
from types import FrameType

from llmrun.run.signals import STOP_SIGNALS as LAUNCHER_STOP_SIGNALS
from llmrun.run.signals import WORKER_STOP_SIGNALS as STOP_SIGNALS
from llmrun.run.signals import signals_to_catch

__all__ = ["STOP_SIGNALS", "WorkerStopRequest"]


class WorkerStopRequest:
    """Whether this rank was asked to stop, by a signal or by the launcher's stop file."""

    def __init__(self, stop_file: Path) -> None:
        self._stop_file = stop_file
        self._signalled = False

    def listen(self) -> None:
        """Set the flag on every stop signal, also on one that came while the agent had them blocked."""
        for number in signals_to_catch(STOP_SIGNALS):
            signal.signal(number, self._note)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, LAUNCHER_STOP_SIGNALS)

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """The handler: a flag and nothing else."""
        self._signalled = True

    def is_set(self, *, look_for_file: bool) -> bool:
        """Whether to stop; only rank 0 looks for the file."""
        return self._signalled or (look_for_file and self._stop_file.exists())
