"""Read a whole file, and nothing that is not a regular file: opening a FIFO must not wait for a writer."""

import errno
import os
import stat
from pathlib import Path

BLOCK_BYTES = 64 * 1024


def read_regular_file(path: Path) -> bytes:
    """The content of a regular file, or of the one that a link leads to.

    Raises OSError if it cannot be read or is not a regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        state = os.fstat(descriptor)
        if stat.S_ISDIR(state.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(state.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        blocks = []
        while block := os.read(descriptor, max(state.st_size + 1, BLOCK_BYTES)):
            blocks.append(block)
        return b"".join(blocks)
    finally:
        os.close(descriptor)
