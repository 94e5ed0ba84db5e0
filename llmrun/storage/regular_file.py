"""Reads regular files only: opening a FIFO would wait for a writer, a device might never end."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_BLOCK_BYTES = 64 * 1024


@contextmanager
def open_regular(path: Path, *, follow_links: bool = True) -> Iterator[int]:
    """A descriptor for reading a regular file.

    Raises OSError: EISDIR for a directory, EINVAL for anything else that is not a regular file, ELOOP for a symbolic
    link if `follow_links` is False.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    descriptor = os.open(path, flags if follow_links else flags | os.O_NOFOLLOW)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        yield descriptor
    finally:
        os.close(descriptor)


def read_regular_file(path: Path) -> bytes:
    """The content of a regular file, or of the one that a link leads to.  Raises OSError."""
    with open_regular(path) as descriptor:
        size = os.fstat(descriptor).st_size
        blocks = []
        while block := os.read(descriptor, max(size + 1, _BLOCK_BYTES)):
            blocks.append(block)
        return b"".join(blocks)
