"""Reads the shards of a split: memory-mapped, opened and verified when first needed.

Of all processes of a segment on one host, one hashes a shard; the others wait for it and use its mark.  The marks are
in memory that torchrun's agent owns (a memfd): they need no name on a disk, only processes of this user reach them, and
they end with the agent, so every segment verifies every shard that it opens.
"""

import fcntl
import hashlib
import os
import resource
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmrun.core.token_stream import TokenStream
from llmrun.core.windows import Split, count_windows
from llmrun.data.manifest import COPY_HINT, DatasetManifest, TokenShard
from llmrun.errors import TOO_MANY_FILES, InputError, RunFailedError, hints_for
from llmrun.storage.durable import sha256_of

SHARD_MARKS = "LLMRUN_SHARD_MARKS"
"""Environment variable with the path of the marks of verified shards, for the descendants of torchrun's agent."""

MARK_BYTES = 32

OPEN_SHARDS_MAX = 256
"""Largest number of shards of one split that a process keeps open."""

OPEN_SHARDS_SHARE = 8
"""The shards of one split may use 1/OPEN_SHARDS_SHARE of the file descriptors of a process."""


class DamagedShardError(RunFailedError):
    """A shard does not have the content that the manifest states (exit 4, because it is found while training)."""


def open_split(directory: Path, manifest: DatasetManifest, name: str, L_ctx: int, verify: bool) -> Split:
    """The windows of one split of a dataset.  Cheap to make and to pickle: shards are opened when needed.

    verify: check the sha256 of each shard when it is opened, not only its size.
    Raises InputError if the split is too small for one window.
    """
    split = manifest.splits[name]
    if count_windows(split.tokens, L_ctx) == 0:
        raise InputError(
            f"the split {name} must have at least L_ctx + 1 = {L_ctx + 1:,} tokens, got {split.tokens:,}",
            where=str(directory),
            hints=[_remedy(name)],
        )
    files = ShardFiles(directory, split.shards, verify=verify)
    return Split(TokenStream([shard.tokens for shard in split.shards], manifest.dtype, files), L_ctx)


def _remedy(name: str) -> str:
    if name == "val":
        return "lower L_ctx, or prepare the dataset with a larger --val-fraction"
    return "lower L_ctx, or prepare the dataset from more text"


class ShardFiles:
    """The bytes of a split's shards by index.  May be pickled: each process opens shards itself."""

    def __init__(self, directory: Path, shards: Sequence[TokenShard], *, verify: bool) -> None:
        self._directory, self._shards, self._verify = directory, shards, verify
        self._checked: dict[int, tuple[int, ...]] = {}
        self._open: OrderedDict[int, NDArray[np.uint8]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_checked": {}, "_open": OrderedDict()}

    def __call__(self, index: int) -> NDArray[np.uint8]:
        """The mapped bytes of one shard, verified when first opened: uint8 [bytes].

        The least recently used shard is closed if too many are open, because a mapping keeps its file open.
        Raises DamagedShardError, RunFailedError.
        """
        if index in self._open:
            self._open.move_to_end(index)
            return self._open[index]
        shard = self._shards[index]
        path = self._directory / shard.name
        while len(self._open) >= open_shards_max():
            self._open.popitem(last=False)
        try:
            found = _identity(path)
            _check_shard(path, shard, verify=self._verify and found != self._checked.get(index))
            self._open[index] = np.memmap(path, dtype=np.uint8, mode="r")
        except (OSError, ValueError) as error:  # ValueError: truncated after its size was checked
            raise _unreadable(path, shard, error) from error
        self._checked[index] = found
        return self._open[index]


def _identity(path: Path) -> tuple[int, ...]:
    """Changes if a file is replaced or written to.  Raises OSError."""
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def open_shards_max() -> int:
    """How many shards of one split this process keeps open, given its limit of open files (`ulimit -n`)."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = OPEN_SHARDS_MAX if soft == resource.RLIM_INFINITY else soft // OPEN_SHARDS_SHARE
    return max(1, min(OPEN_SHARDS_MAX, allowed))


def _unreadable(path: Path, shard: TokenShard, error: OSError | ValueError) -> RunFailedError:
    """The error for a shard that could not be opened; it is damage unless the process has too many open files."""
    reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
    message = f"cannot read the shard {shard.name}: {reason}"
    if isinstance(error, OSError) and error.errno in TOO_MANY_FILES:
        return RunFailedError(message, where=str(path), hints=hints_for(error))
    return DamagedShardError(message, where=str(path), hints=[COPY_HINT])


def _check_shard(path: Path, shard: TokenShard, *, verify: bool) -> None:
    """Size always, sha256 if `verify`.  Raises DamagedShardError and OSError."""
    hints = [COPY_HINT]
    n_bytes = path.stat().st_size
    found = sha256_once(path, shard.sha256) if verify and n_bytes == shard.bytes else shard.sha256
    if n_bytes != shard.bytes:
        raise DamagedShardError(
            f"the shard {shard.name} must have {shard.bytes:,} bytes as in dataset.json, got {n_bytes:,}",
            where=str(path),
            hints=hints,
        )
    if found != shard.sha256:
        raise DamagedShardError(
            f"the shard {shard.name} must have the sha256 that dataset.json states",
            where=str(path),
            caused_by=[f"expected sha256 {shard.sha256}", f"found    sha256 {found}"],
            hints=hints,
        )


def offer_marks() -> None:
    """Create the marks for processes that are started from now on; without marks each process hashes itself."""
    with suppress(OSError):
        os.environ[SHARD_MARKS] = f"/proc/{os.getpid()}/fd/{os.memfd_create('llmrun-shards')}"


def sha256_once(path: Path, expected: str) -> str:
    """The sha256 of a file, in hex; `expected` if another process has found it and the file is unchanged since.

    Only a sound file is marked, so every process hashes and reports a damaged one.
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
            with suppress(OSError):  # the limit of file sizes (`ulimit -f`) applies to the marks, too
                os.pwrite(marks, mark, place)
        return found
    finally:
        os.close(marks)


def _open_marks() -> int | None:
    """A descriptor of the marks; None if there are none, or if the system does not show them."""
    with suppress(KeyError, OSError):
        return os.open(os.environ[SHARD_MARKS], os.O_RDWR | os.O_CLOEXEC)
    return None


def _mark_of(path: Path, expected: str) -> bytes:
    """The mark of a file as it is now, 32 bytes: replacing the file or writing to it changes the mark."""
    real = path.resolve()
    facts = (str(real), *_identity(real), expected)
    return hashlib.sha256(repr(facts).encode(errors="surrogateescape")).digest()
