"""Shards found sound: of all processes of a segment on one host one hashes each, the others wait and believe it.

The marks lie in memory that torchrun's agent owns (a memfd).  They need no name on a disk, only processes of
this user reach them, and they end with the agent: every segment checks every shard that it opens.
"""

import fcntl
import hashlib
import os
from contextlib import suppress
from pathlib import Path

from llmrun.storage.durable import sha256_of

SHARD_MARKS = "LLMRUN_SHARD_MARKS"
"""The variable that tells the agent's descendants where the marks are."""

MARK_BYTES = 32


def offer_marks() -> None:
    """Make room for marks, for the processes that are started from now on; without it each hashes for itself."""
    with suppress(OSError):
        os.environ[SHARD_MARKS] = f"/proc/{os.getpid()}/fd/{os.memfd_create('llmrun-shards')}"


def sha256_once(path: Path, expected: str) -> str:
    """The sha256 of a file, or `expected` where another process found just that and the file is as it was.

    Only a sound file is marked: a damaged one is hashed and told by every process.
    """
    marks = _open_marks()
    if marks is None:
        return sha256_of(path)
    try:
        mark = _mark_of(path, expected)
        place = int.from_bytes(mark[:5], "little") * MARK_BYTES
        fcntl.lockf(marks, fcntl.LOCK_EX, MARK_BYTES, place)  # until closed, or until this process dies
        if os.pread(marks, MARK_BYTES, place) == mark:
            return expected
        found = sha256_of(path)
        if (found, mark) == (expected, _mark_of(path, expected)):
            with suppress(OSError):  # a limit on the size of files (`ulimit -f`) holds for these marks, too
                os.pwrite(marks, mark, place)
        return found
    finally:
        os.close(marks)


def _open_marks() -> int | None:
    """A descriptor of the marks; None where there are none, or where the system hides them."""
    with suppress(KeyError, OSError):
        return os.open(os.environ[SHARD_MARKS], os.O_RDWR | os.O_CLOEXEC)
    return None


def _mark_of(path: Path, expected: str) -> bytes:
    """What the file is now, as 32 bytes: whoever writes to it or replaces it changes this."""
    real = path.resolve()
    state = real.stat()
    facts = (str(real), state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
    return hashlib.sha256(repr((*facts, expected)).encode(errors="surrogateescape")).digest()
