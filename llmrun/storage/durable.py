"""Durable files: whole or absent, also after a power cut.  Nothing else in llmrun fsyncs or renames.

Every operation goes through a `Disk`, so that a test can record it, delay it, or make it fail.
Order of a commit: temporary name in the same directory, write, fsync, rename, fsync of the directory.
"""

import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

BLOCK_BYTES = 1024 * 1024
"""Size of one write or hash update: large enough to release the GIL, small enough for the CPU caches."""

SEND_BYTES = 8 * BLOCK_BYTES
"""Writeback to the device is started each time this much of a file was written."""

TEMPORARY_PREFIX = ".tmp-"

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Errors if the disk, a quota or a file size limit is full: a later try may succeed."""


class Disk:
    """The operations of the file system that durability rests on."""

    def create(self, path: Path) -> int:
        """Create a file, which must not exist, and return its descriptor.  The umask applies; never world-writable."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o664)

    def open(self, path: Path) -> int:
        """A descriptor of an existing file, for writing from its beginning."""
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC)

    def allocate(self, descriptor: int, start: int, n_bytes: int) -> None:
        """Allocate zeros: later writes there cannot fail for want of space.  Raises OSError (ENOSPC)."""
        os.posix_fallocate(descriptor, start, n_bytes)

    def write(self, descriptor: int, block: memoryview) -> None:
        """Write all of `block`, however many calls it takes."""
        while block:
            block = block[os.write(descriptor, block) :]

    def size(self, descriptor: int) -> int:
        """The current size of a file in bytes."""
        return os.fstat(descriptor).st_size

    def send(self, descriptor: int, start: int, n_bytes: int) -> None:
        """Start writing bytes back to the device, and drop from the page cache what was written back.

        A hint that does not block.  Without it most of a file waits for the fsync, and evicts the pages that training
        reads.
        """
        with suppress(OSError):
            os.posix_fadvise(descriptor, start, n_bytes, os.POSIX_FADV_DONTNEED)

    def fsync(self, descriptor: int) -> None:
        """Force a file's bytes to the device."""
        os.fsync(descriptor)

    def close(self, descriptor: int) -> None:
        """Close a descriptor."""
        os.close(descriptor)

    def rename(self, old: Path, new: Path) -> None:
        """Give a file or directory its final name, replacing a file of that name."""
        old.replace(new)

    def fsync_directory(self, path: Path) -> None:
        """Force the entries of a directory to the device."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def make_directory(self, path: Path) -> None:
        """Create one directory, which must not exist.  The umask applies; never world-writable."""
        path.mkdir(mode=0o775)

    def remove_file(self, path: Path) -> None:
        """Remove a file if it exists."""
        path.unlink(missing_ok=True)

    def remove_tree(self, path: Path) -> None:
        """Remove a directory with its content."""
        shutil.rmtree(path)


DISK = Disk()


def blocks_of(content: bytes | memoryview) -> Iterable[memoryview]:
    """`content` in blocks of 1 MiB, without copying."""
    view = memoryview(content)
    if view.nbytes == 0:
        return
    view = view.cast("B")
    for start in range(0, len(view), BLOCK_BYTES):
        yield view[start : start + BLOCK_BYTES]


def write_new(path: Path, contents: Iterable[bytes | memoryview], disk: Disk = DISK) -> tuple[int, str]:
    """Write a new file under its own name and fsync it.

    For files in a directory that is renamed later (`commit_directory`).  Returns (bytes, sha256 in hex).
    Raises OSError, also if the file is shorter than what was written (EIO).
    """
    digest = hashlib.sha256()

    def hashed() -> Iterator[memoryview]:
        # Block by block: the contents may be larger than memory.
        for content in contents:
            for block in blocks_of(content):
                digest.update(block)
                yield block

    return write_unhashed(path, hashed(), disk), digest.hexdigest()


def write_unhashed(path: Path, contents: Iterable[bytes | memoryview], disk: Disk = DISK) -> int:
    """`write_new` without the sha256, which `sha256_over` can compute on another thread.  Returns the size in bytes."""
    n_bytes = sent_bytes = 0
    descriptor = disk.create(path)
    try:
        for content in contents:
            for block in blocks_of(content):
                disk.write(descriptor, block)
                n_bytes += len(block)
                if n_bytes - sent_bytes >= SEND_BYTES:
                    disk.send(descriptor, sent_bytes, n_bytes - sent_bytes)
                    sent_bytes = n_bytes
        if disk.size(descriptor) != n_bytes:
            raise OSError(errno.EIO, f"{disk.size(descriptor)} bytes arrived of {n_bytes}", str(path))
        disk.fsync(descriptor)
        if sent_bytes:
            disk.send(descriptor, 0, n_bytes)
    finally:
        disk.close(descriptor)
    return n_bytes


def sha256_over(contents: Iterable[bytes | memoryview]) -> str:
    """The sha256 in hex of contents, which must not change meanwhile."""
    digest = hashlib.sha256()
    for content in contents:
        for block in blocks_of(content):
            digest.update(block)
    return digest.hexdigest()


def replace_file(path: Path, contents: Iterable[bytes | memoryview], disk: Disk = DISK) -> tuple[int, str]:
    """Write a file atomically and durably: its name has the old or the new content, never a part.

    Returns (bytes, sha256 in hex).
    """
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}-{os.getpid()}")
    disk.remove_file(temporary)
    try:
        written = write_new(temporary, contents, disk)
        disk.rename(temporary, path)
    except BaseException:
        disk.remove_file(temporary)
        raise
    disk.fsync_directory(path.parent)
    return written


def replace_streamed(path: Path, contents: Iterable[bytes | memoryview], disk: Disk = DISK) -> None:
    """`replace_file` without the sha256, for contents that are produced block by block."""
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}-{os.getpid()}")
    disk.remove_file(temporary)
    try:
        write_unhashed(temporary, contents, disk)
        disk.rename(temporary, path)
    except BaseException:
        disk.remove_file(temporary)
        raise
    disk.fsync_directory(path.parent)


def is_shared(path: Path) -> bool:
    """Whether a file has several hard links or is a symbolic link.  Raises OSError."""
    found = path.lstat()
    return stat.S_ISLNK(found.st_mode) or (stat.S_ISREG(found.st_mode) and found.st_nlink > 1)


def make_private(path: Path, disk: Disk = DISK) -> None:
    """Replace a file that is shared by links by a copy, durably.  Raises OSError.

    For files that are written in place: `cp -al` and `rsync --link-dest` make copies of a run that share its files.
    Does nothing for a file that is missing, not shared or not regular.
    """
    if not os.path.lexists(path) or not is_shared(path) or not path.is_file():
        return
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with path.open("rb") as file:
            write_unhashed(temporary, iter(lambda: file.read(BLOCK_BYTES), b""), disk)
        shutil.copystat(path, temporary)
        disk.rename(temporary, path)
    except BaseException:
        disk.remove_file(temporary)
        raise
    disk.fsync_directory(path.parent)


def open_to_append(path: Path, disk: Disk = DISK) -> int:
    """A descriptor that appends to a file, after `make_private`; the file is created if missing.  Raises OSError."""
    make_private(path, disk)
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o664)


def open_to_write(path: Path, disk: Disk = DISK) -> int:
    """A descriptor that writes from the beginning of an existing file, after `make_private`.  Raises OSError."""
    make_private(path, disk)
    return disk.open(path)


def replace_text(path: Path, text: str, disk: Disk = DISK) -> None:
    """`replace_file` with text, encoded by `as_utf8`."""
    replace_file(path, [as_utf8(text)], disk)


def as_utf8(text: str) -> bytes:
    r"""`text` as UTF-8; each byte of a name that is not UTF-8 becomes an escape such as `\udcff`.

    JSON escapes Python's surrogates in this way, so that `os.fsencode` of the string that is read back is the name.
    """
    return text.encode("utf-8", "backslashreplace")


def json_bytes(value: Any, indent: int | None = 2) -> bytes:
    """Readable JSON with a final newline, UTF-8 (`as_utf8`).  Raises ValueError for NaN and infinities."""
    return as_utf8(json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False) + "\n")


def replace_json(path: Path, value: Any, disk: Disk = DISK) -> None:
    """`replace_file` with readable JSON.  Raises ValueError for NaN and infinities."""
    replace_file(path, [json_bytes(value)], disk)


def reserve(path: Path, n_bytes: int, disk: Disk = DISK) -> None:
    """Allocate disk space for a later `replace_reserved` of `path`.  Raises OSError."""
    reserved = _reserved(path)
    disk.remove_file(reserved)
    descriptor = disk.create(reserved)
    try:
        disk.allocate(descriptor, 0, n_bytes)
    finally:
        disk.close(descriptor)


def replace_reserved(path: Path, text: str, disk: Disk = DISK) -> None:
    """`replace_text` into the space that `reserve` allocated, if it did: works on a full disk."""
    reserved = _reserved(path)
    if not reserved.exists():
        replace_text(path, text, disk)
        return
    content = as_utf8(text)
    descriptor = open_to_write(reserved, disk)
    try:
        disk.write(descriptor, memoryview(content))
        os.ftruncate(descriptor, len(content))
        disk.fsync(descriptor)
    finally:
        disk.close(descriptor)
    disk.rename(reserved, path)
    disk.fsync_directory(path.parent)


def _reserved(path: Path) -> Path:
    return path.with_name(f"{TEMPORARY_PREFIX}{path.name}-reserved")


def commit_directory(temporary: Path, final: Path, disk: Disk = DISK) -> None:
    """Rename a directory whose files are all fsynced to its final name, durably.

    Raises FileExistsError if the final name exists: a complete directory is never replaced.
    """
    disk.fsync_directory(temporary)
    if final.exists():
        raise FileExistsError(f"{final} exists")
    disk.rename(temporary, final)
    disk.fsync_directory(final.parent)


def make_directories(path: Path, disk: Disk = DISK) -> None:
    """Create a directory and its missing parents, durably."""
    missing = []
    while not path.exists():
        missing.append(path)
        path = path.parent
    for directory in reversed(missing):
        disk.make_directory(directory)
        disk.fsync_directory(directory.parent)


def sweep_files(directory: Path, disk: Disk = DISK) -> None:
    """Remove temporary files that killed processes left below a directory; no process may be writing there.

    Best effort.
    """
    for path in list(directory.rglob(f"{TEMPORARY_PREFIX}*")):
        if path.is_file():
            with suppress(OSError):
                disk.remove_file(path)


def file_system_time(directory: Path) -> float:
    """The current time by the clock of the file system that holds `directory`, which may differ from the host's."""
    probe = directory / f"{TEMPORARY_PREFIX}clock-{secrets.token_hex(8)}"
    descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        return os.fstat(descriptor).st_mtime
    finally:
        os.close(descriptor)
        probe.unlink()


def sha256_of(path: Path) -> str:
    """The sha256 of a file in hex, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
