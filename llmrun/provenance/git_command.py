"""Runs git through GitPython: bounded in time and bytes, with the same output whatever the user's settings are.

GitPython's own readers (`Repo`) are not used: they parse the repository in Python, without a time limit, without
git's ownership check (`safe.directory`), and not every format of refs.  Its command layer starts git without a shell.
"""

import contextlib
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

from llmrun.provenance.redaction import redacted

GIT_TIMEOUT_S = 30.0
"""For all git commands and hashes of a start together."""

POLL_S = 0.1
BLOCK_BYTES = 256 * 1024
ANSWER_BYTES_MAX = 64 * 1024 * 1024
"""Largest output that is held in memory: about a million file names."""

MESSAGES_BYTES_MAX = 16 * 1024
"""Git's messages are kept up to this size."""

SETTINGS = (
    # names and paths
    "core.quotePath=false", "core.fsmonitor=false", "core.attributesFile=/dev/null", "core.safecrlf=false",
    "core.autocrlf=false",
    # what may change the bytes of a diff and has no option of `git diff`
    "core.bigFileThreshold=512m", "core.compression=6", "core.looseCompression=6",
    "core.pager=cat", "color.ui=false", "diff.orderFile=/dev/null", "diff.suppressBlankEmpty=false",
    "diff.noprefix=false", "diff.mnemonicPrefix=false", "diff.renames=false", "diff.autoRefreshIndex=true",
)  # fmt: skip
"""Settings of every git command; they win over the user's and the repository's.

The user's configuration is still read: it holds `safe.directory` and the programs of filters.
"""

DIFF_OPTIONS = (
    "--no-ext-diff", "--no-textconv", "--no-color", "--no-renames", "--no-relative", "--src-prefix=a/", "--dst-prefix=b/",
    "--unified=3", "--inter-hunk-context=0", "--diff-algorithm=myers", "--indent-heuristic", "--full-index",
    "--submodule=short", "--ignore-submodules=dirty",
)  # fmt: skip
"""The same diff whatever the user's git configuration is; submodules are read one by one."""

ENVIRONMENT = {
    "LC_ALL": "C",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_PAGER": "cat",
    "GIT_DIFF_OPTS": "",
    "GIT_TRACE": "0",
    # A partial clone must not fetch missing objects over the network.
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_ALLOW_PROTOCOL": "none",
}


class GitAnswerError(Exception):
    """Git gave no answer; the message is git's own, without credentials, or the limit that was reached."""


class NoOutputError(GitAnswerError):
    """Git ended with an exit code other than 0 and printed no message: the answer is "no"."""


class GitMissingError(GitAnswerError):
    """The git command or GitPython is not installed."""


class StoppedError(Exception):
    """The caller no longer waits for the answer (`Limits.stop`)."""


class OutputLimitError(GitAnswerError):
    """The output is larger than its limit."""


class Limits:
    """The time that reading repositories may take, and a request to stop early.

    seconds: from now, for all commands together.
    poll: called several times a second; what it raises ends the command that runs.
    """

    def __init__(self, seconds: float, poll: Callable[[], None] | None = None) -> None:
        self.seconds = seconds
        self._poll = poll
        self._end_s = time.monotonic() + seconds
        self._stopped = threading.Event()

    def stop(self) -> None:
        """End every command at its next poll."""
        self._stopped.set()

    def check(self, what: str) -> None:
        """Raises GitAnswerError if the time is used up, StoppedError after `stop`."""
        if self._poll is not None:
            self._poll()
        if self._stopped.is_set():
            raise StoppedError
        if time.monotonic() > self._end_s:
            raise GitAnswerError(f"{what} exceeded the limit of {self.seconds:g} s for git")


class Answer:
    """Output held in memory.  Raises OutputLimitError above `bytes_max`."""

    def __init__(self, bytes_max: int = ANSWER_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self.content = bytearray()

    def write(self, block: bytes) -> None:
        """Append a block."""
        self.content += block
        if len(self.content) > self._bytes_max:
            raise OutputLimitError(f"the output is larger than {self._bytes_max:,} bytes")


def run_git(
    directory: Path,
    limits: Limits,
    *arguments: str,
    write: Callable[[bytes], None] | None = None,
    settings: Sequence[str] = (),
) -> bytes:
    """The output of a git command in `directory`; with `write` the output goes there block by block.

    settings: `key=value`, on top of SETTINGS.

    Raises GitAnswerError with git's message, GitMissingError, StoppedError, and what `write` raises.
    """
    what = f"git {arguments[0]}"
    limits.check(what)
    answer, messages = Answer(), _Messages()
    process = _start(directory, arguments, (*SETTINGS, *settings))
    try:
        _read_all(process, limits, what, write or answer.write, messages.write)
        exit_code = _wait(process, limits, what)
    except BaseException:
        # Filters that git started are in its session and end with it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    finally:
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
    if exit_code != 0:
        if not messages.text:
            raise NoOutputError(f"{what} ended with exit code {exit_code}")
        raise GitAnswerError(messages.text)
    return bytes(answer.content)


class _Messages:
    """What git prints to standard error, up to MESSAGES_BYTES_MAX."""

    def __init__(self) -> None:
        self._content = bytearray()

    def write(self, block: bytes) -> None:
        """Keep the beginning."""
        self._content += block[: max(0, MESSAGES_BYTES_MAX - len(self._content))]

    @property
    def text(self) -> str:
        """All messages in one line, without credentials."""
        text = " ".join(self._content.decode(errors="replace").split())
        return redacted(text)


def _start(directory: Path, arguments: Sequence[str], settings: Sequence[str]) -> "subprocess.Popen[bytes]":
    """Git, started in a session of its own.  Raises GitMissingError, GitAnswerError."""
    options = [word for setting in settings for word in ("-c", setting)]
    git = _gitpython()
    try:
        started = git.Git(directory).execute(
            ["git", "--no-pager", *options, *arguments],
            as_process=True,
            shell=False,
            env=ENVIRONMENT,
            start_new_session=True,
        )
    except git.GitCommandNotFound as error:
        raise GitMissingError("the git command is not installed") from error
    except (OSError, git.GitError) as error:
        raise GitAnswerError(f"cannot start git: {error}") from error
    # GitPython's wrapper kills the process when it is garbage-collected; here the caller does, with its children.
    process: subprocess.Popen[bytes] = started.proc
    started.proc = None
    return process


_IMPORTING = threading.Lock()

IMPORT_VARIABLES = {"GIT_PYTHON_REFRESH": "quiet", "GIT_PYTHON_GIT_EXECUTABLE": os.devnull}
"""GitPython runs `git version` when it is imported, without a time limit; a file that cannot be executed prevents it."""


def _gitpython() -> ModuleType:
    """The module `git`, imported late and without starting git.  Raises GitMissingError."""
    with _IMPORTING:
        before = {name: os.environ.get(name) for name in IMPORT_VARIABLES}
        os.environ.update(IMPORT_VARIABLES)
        try:
            import git
        except ImportError as error:
            raise GitMissingError(f"cannot import GitPython: {error}") from error
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
    return git


def _read_all(
    process: "subprocess.Popen[bytes]",
    limits: Limits,
    what: str,
    output: Callable[[bytes], None],
    messages: Callable[[bytes], None],
) -> None:
    """Read both streams until their end."""
    assert process.stdout is not None
    assert process.stderr is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ, output)
        selector.register(process.stderr, selectors.EVENT_READ, messages)
        while selector.get_map():
            limits.check(what)
            for key, _ in selector.select(POLL_S):
                block = os.read(key.fd, BLOCK_BYTES)
                if block:
                    key.data(block)
                else:
                    selector.unregister(key.fileobj)


def _wait(process: "subprocess.Popen[bytes]", limits: Limits, what: str) -> int:
    while True:
        try:
            return process.wait(POLL_S)
        except subprocess.TimeoutExpired:
            limits.check(what)
