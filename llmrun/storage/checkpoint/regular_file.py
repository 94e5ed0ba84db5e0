"""Reading files of a checkpoint: regular files only, never through a symbolic link, never past a limit."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llmrun.storage.checkpoint.errors import damaged
from llmrun.storage.durable import BLOCK_BYTES


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """A descriptor for reading a regular file.  Raises CheckpointDamage, also where the disk refuses a read."""
    try:
        if path.is_symlink():
            raise damaged(path, "is a symbolic link; a checkpoint holds its own files only")
        # O_NONBLOCK: opening a pipe that stands under the name must not wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise damaged(path, "is not a regular file")
            yield descriptor
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise damaged(path, "is missing") from None
    except OSError as error:
        raise damaged(path, f"cannot be read: {error.strerror}") from None


def size_of(path: Path) -> int:
    """The bytes of what stands under a name.  Raises CheckpointDamage where nothing does, or it cannot be told."""
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        raise damaged(path, "is missing") from None
    except OSError as error:
        raise damaged(path, f"cannot be read: {error.strerror}") from None


def read_small(path: Path, bytes_max: int) -> bytes:
    """A whole file of at most `bytes_max` bytes.  Raises CheckpointDamage."""
    with opened(path) as descriptor:
        size = os.fstat(descriptor).st_size
        if size > bytes_max:
            raise damaged(path, f"has {size:,} bytes; at most {bytes_max:,} are allowed")
        content = bytearray(size)
        read_into(path, descriptor, memoryview(content), offset=0)
    return bytes(content)


def read_into(path: Path, descriptor: int, target: memoryview, offset: int) -> None:
    """Fill `target` from byte `offset` on, in blocks of 1 MiB.  Raises CheckpointDamage where the file ends."""
    done = 0
    while done < len(target):
        got = os.preadv(descriptor, [target[done : done + BLOCK_BYTES]], offset + done)
        if got == 0:
            raise damaged(path, f"ends at byte {offset + done:,}, too early")
        done += got
