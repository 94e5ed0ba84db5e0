"""Reads files of a checkpoint: regular files only, never through a symbolic link, never past a size limit.

Every error is a CheckpointDamage that names the file.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llmrun.storage.checkpoint.errors import CheckpointDamage, damaged
from llmrun.storage.durable import BLOCK_BYTES
from llmrun.storage.regular_file import open_regular


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """A descriptor for reading.  Raises CheckpointDamage, also if a read inside the block fails."""
    try:
        with open_regular(path, follow_links=False) as descriptor:
            yield descriptor
    except OSError as error:
        raise _unreadable(path, error) from None


def size_of(path: Path) -> int:
    """The size of a file in bytes, without opening it.  Raises CheckpointDamage."""
    try:
        return path.lstat().st_size
    except OSError as error:
        raise _unreadable(path, error) from None


def read_small(path: Path, bytes_max: int) -> bytes:
    """A whole file of at most `bytes_max` bytes.  Raises CheckpointDamage."""
    with opened(path) as descriptor:
        size = os.fstat(descriptor).st_size
        if size > bytes_max:
            raise damaged(path, f"must have at most {bytes_max:,} bytes, got {size:,}", "size")
        content = bytearray(size)
        read_into(path, descriptor, memoryview(content), offset=0)
    return bytes(content)


def read_into(path: Path, descriptor: int, target: memoryview, offset: int) -> None:
    """Fill `target` from byte `offset` on, in blocks of 1 MiB.  Raises CheckpointDamage if the file ends before."""
    done = 0
    while done < len(target):
        got = os.preadv(descriptor, [target[done : done + BLOCK_BYTES]], offset + done)
        if got == 0:
            raise damaged(path, f"ends too early, at byte {offset + done:,}", "size")
        done += got


def _unreadable(path: Path, error: OSError) -> CheckpointDamage:
    if isinstance(error, FileNotFoundError):
        return damaged(path, "is missing", "missing")
    if error.errno == errno.ELOOP and path.is_symlink():
        return damaged(path, "is a symbolic link; a checkpoint holds its own files only", "link")
    return damaged(path, f"cannot be read: {error.strerror}", "unreadable")
