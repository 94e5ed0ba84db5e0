"""Standard output and error that may go away: a reader that exits, a full disk, a closed terminal or descriptor.

What can no longer be printed is dropped.  A command that only prints learns of it, once, by ScreenLost on standard
output; standard error never raises, and while a run is under way standard output does not either
(`keep_going`).  Nothing that trains, saves or cleans up can end because of a screen.
"""

import errno
import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

PATIENCE_S = 1.0
"""While a run is under way, a screen that takes nothing for this long (a paused pager or terminal) is skipped until
it takes something again: a launcher that waits for a screen cannot pass a stop signal on."""

PIECE_BYTES: Final = select.PIPE_BUF
"""A pipe that is ready takes as many bytes without blocking."""


class ScreenLost(Exception):
    """Standard output cannot be written.  cause: what the system says."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(str(cause))
        self.cause = cause


class Screen(io.RawIOBase):
    """One of the two streams, unbuffered.

    lost: why it cannot be written; None as long as it can.  skipped_bytes: what a paused screen did not get.
    """

    def __init__(self, descriptor: int, name: str, *, raises: bool, lost: OSError | None) -> None:
        super().__init__()
        self.name, self.lost, self.raises = name, lost, raises
        self.skipped_bytes = 0
        self._descriptor = descriptor
        self._has_raised = False
        self._patience_s: float | None = None
        self._is_paused = False

    def writable(self) -> bool:
        """See `io.IOBase`."""
        return True

    def fileno(self) -> int:
        """See `io.IOBase`."""
        return self._descriptor

    def isatty(self) -> bool:
        """See `io.IOBase`."""
        return self.lost is None and os.isatty(self._descriptor)

    def write(self, content: object) -> int:
        """Write all of `content`, or drop it if the stream cannot be written.  Raises ScreenLost once, if at all."""
        block = memoryview(content).cast("B")  # type: ignore[arg-type]
        n_bytes = len(block)
        while block and self.lost is None:
            if not self._is_ready():
                self.skipped_bytes += len(block)
                break
            try:
                block = block[os.write(self._descriptor, block[:PIECE_BYTES]) :]
            except BlockingIOError:
                select.select([], [self._descriptor], [], PATIENCE_S)
            except OSError as error:
                self.lost = error
        if self.lost is not None and self.raises and not self._has_raised:
            self._has_raised = True
            raise ScreenLost(self.lost)
        return n_bytes

    def _is_ready(self) -> bool:
        """Whether a write would not block for long; always true unless a run is under way.

        A screen that is paused is waited for once, not at every line.
        """
        if self._patience_s is None:
            return True
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        self._is_paused = not poll.poll(0 if self._is_paused else self._patience_s * 1000)
        return not self._is_paused

    @contextmanager
    def unattended(self) -> Iterator[None]:
        """Meanwhile never raise, and never block for long."""
        before, self.raises, self._patience_s = self.raises, False, PATIENCE_S
        try:
            yield
        finally:
            self._patience_s = None
            self.raises = before and self.lost is None


_SCREENS: list[Screen] = []


def install() -> None:
    """Put screens in place of `sys.stdout` and `sys.stderr`, and something behind descriptors 0, 1 and 2.

    Without that a run's own file could be opened as descriptor 1, and be printed into.
    """
    closed = [descriptor for descriptor in (0, 1, 2) if not _is_open(descriptor)]
    for _ in closed:
        os.open(os.devnull, os.O_RDWR)  # takes the lowest descriptor that is free
    for descriptor, name, raises in ((1, "stdout", True), (2, "stderr", False)):
        stream = getattr(sys, name)
        if stream is not None and stream is not getattr(sys, f"__{name}__"):
            continue  # somebody else's: a test reads it
        lost = OSError(errno.EBADF, "it is closed") if descriptor in closed else None
        screen = Screen(descriptor, name, raises=raises, lost=lost)
        _SCREENS.append(screen)
        encoding = stream.encoding if isinstance(stream, io.TextIOWrapper) else "utf-8"
        text = io.TextIOWrapper(
            io.BufferedWriter(screen), encoding, errors="backslashreplace", line_buffering=screen.isatty()
        )
        setattr(sys, name, text)


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


@contextmanager
def keep_going() -> Iterator[None]:
    """Meanwhile, and once a stream is lost, printing neither raises nor blocks: a run is under way."""
    with _all_unattended(list(_SCREENS)):
        yield


@contextmanager
def _all_unattended(screens: list[Screen]) -> Iterator[None]:
    if not screens:
        yield
        return
    with screens[0].unattended(), _all_unattended(screens[1:]):
        yield


def troubles() -> tuple[str, ...]:
    """One sentence for each stream that could not be written, for the record of a run."""
    lost = [
        f"nothing more was printed on {screen.name}: {screen.lost.strerror}"
        for screen in _SCREENS
        if screen.lost is not None
    ]
    paused = [
        f"{screen.skipped_bytes:,} bytes were not printed on {screen.name}: it took nothing for {PATIENCE_S:g} s"
        for screen in _SCREENS
        if screen.skipped_bytes
    ]
    return (*lost, *paused)
