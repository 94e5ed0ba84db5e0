"""Reads the repository on a background thread, while the probe of the worker environment runs."""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from llmrun.provenance.git_command import GIT_TIMEOUT_S, Limits, StoppedError
from llmrun.provenance.git_reader import read_git
from llmrun.provenance.git_state import GitState, Patch

POLL_S = 0.1
NOTIFY_AFTER_S = 2.0


class BackgroundTask(Protocol):
    """A lookup that runs in the background."""

    def ready(self, timeout_s: float) -> bool:
        """Whether the answer is there, after waiting for at most `timeout_s`."""
        ...


class GitQuestion:
    """Reads the repository around `directory` in the background; see `read_git`.

    spool: directory for the patch until it is written to the run; should be on the run's file system.
    """

    def __init__(
        self,
        directory: Path,
        leave_out: Sequence[Path],
        spool: Path | None = None,
        seconds: float = GIT_TIMEOUT_S,
    ) -> None:
        self._limits = Limits(seconds)
        self._state: GitState | None = None
        arguments = (directory, leave_out, Patch(spool))
        self._thread = threading.Thread(target=self._ask, args=arguments, name="git", daemon=True)
        self._thread.start()

    def _ask(self, directory: Path, leave_out: Sequence[Path], patch: Patch) -> None:
        try:
            self._state = read_git(directory, leave_out, limits=self._limits, patch=patch)
        except StoppedError:
            self._state = GitState()
        except Exception as error:  # noqa: BLE001  a fault in reading a repository must not stop training
            why = f"cannot read the git repository of {directory}: {type(error).__name__}: {error}"
            self._state = GitState(missing=(why,), incomplete=(why,))

    def ready(self, timeout_s: float) -> bool:
        """Whether the answer is there, after waiting for at most `timeout_s`."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def answer(self) -> GitState:
        """Wait for the repository's state."""
        self._thread.join()
        assert self._state is not None
        return self._state

    def withdraw(self) -> None:
        """Cancel; no process is left when this returns."""
        self._limits.stop()
        self._thread.join()


def wait_for(
    questions: Sequence[BackgroundTask],
    check: Callable[[], None],
    notify: Callable[[str], None] | None = None,
) -> None:
    """Wait until all questions are answered.

    check: called several times a second; an exception that it raises ends the wait.
    notify: receives one line for the user if the wait takes longer than NOTIFY_AFTER_S.
    """
    started_s, notified = time.monotonic(), False
    for question in questions:
        while not question.ready(POLL_S):
            check()
            if not notified and notify is not None and time.monotonic() - started_s > NOTIFY_AFTER_S:
                notify(f"waiting for git and pip (at most {GIT_TIMEOUT_S:g} s)")
                notified = True
    check()
