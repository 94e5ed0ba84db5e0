"""Git is asked on a thread of its own, while the probe of a worker's environment runs."""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from llmrun.provenance.git import GIT_S, GitState, read_git
from llmrun.provenance.git_command import Limits, StoppedError
from llmrun.provenance.patch import Patch

POLL_S = 0.1
SILENCE_S = 2.0


class Question(Protocol):
    """Something that is asked now and answered later."""

    def ready(self, timeout_s: float) -> bool:
        """Whether there is an answer, after waiting for at most `timeout_s`."""
        ...


class GitQuestion:
    """The repository around `directory`; see `read_git`.

    spool: directory for the patch until it is written to the run; it should have the run's file system.
    """

    def __init__(
        self, directory: Path, leave_out: Sequence[Path], spool: Path | None = None, seconds: float = GIT_S
    ) -> None:
        self._limits = Limits(seconds)
        self._state: GitState | None = None
        arguments = (directory, leave_out, Patch(spool))
        self._thread = threading.Thread(target=self._ask, args=arguments, name="git", daemon=True)
        self._thread.start()

    def _ask(self, directory: Path, leave_out: Sequence[Path], patch: Patch) -> None:
        """Read the repository."""
        try:
            self._state = read_git(directory, leave_out, limits=self._limits, patch=patch)
        except StoppedError:
            self._state = GitState()
        except Exception as error:  # noqa: BLE001  a fault in reading a repository must not stop training
            why = f"cannot read the git repository of {directory}: {type(error).__name__}: {error}"
            self._state = GitState(missing=(why,), incomplete=(why,))

    def ready(self, timeout_s: float) -> bool:
        """Whether there is an answer, after waiting for at most `timeout_s`."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def answer(self) -> GitState:
        """The repository's state."""
        self._thread.join()
        assert self._state is not None
        return self._state

    def withdraw(self) -> None:
        """End the question without an answer; no process is left when this returns."""
        self._limits.stop()
        self._thread.join()


def wait_for(
    questions: Sequence[Question], check: Callable[[], None], notify: Callable[[str], None] | None = None
) -> None:
    """Wait until all questions have an answer.

    check: called several times a second; what it raises ends the waiting.
    say: tells the user what is waited for, if it takes longer than SILENCE_S.
    """
    started_s, silent = time.monotonic(), True
    for question in questions:
        while not question.ready(POLL_S):
            check()
            if silent and notify is not None and time.monotonic() - started_s > SILENCE_S:
                notify(f"waiting for git and pip, at most {GIT_S:g} s")
                silent = False
    check()
