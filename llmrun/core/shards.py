"""Reading tokens across shards: memory-mapped, opened and checked when first needed."""

import resource
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmrun.data.manifest import DTYPES, Manifest, Shard
from llmrun.data.verified_shards import sha256_once
from llmrun.errors import TOO_MANY_FILES, RunFailedError, hints_for

OPEN_SHARDS_MAX = 256
"""Shards of one split that a process keeps open at most."""

OPEN_SHARDS_SHARE = 8
"""Of the descriptors that a process may have, one split's shards take at most 1 in this many."""


class DamagedShardError(RunFailedError):
    """A shard's content is not what the manifest says (exit 4: found while training)."""


class TokenReader:
    """The token stream of one split.  Safe to pickle: each process opens shards for itself."""

    def __init__(self, directory: Path, manifest: Manifest, split: str, verify: bool) -> None:
        self.directory = directory
        self.shards = manifest.splits[split].shards
        self.n_tokens = manifest.splits[split].tokens
        self.verify = verify
        self._dtype = DTYPES[manifest.dtype]
        self._starts = np.cumsum([0, *(shard.tokens for shard in self.shards)])
        self._checked: dict[int, tuple[int, ...]] = {}
        self._open: OrderedDict[int, NDArray[np.unsignedinteger]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_checked": {}, "_open": OrderedDict()}

    def tokens(self, start: int, count: int) -> NDArray[np.int32]:
        """Tokens [start, start + count) of the stream: a new int32 array [count].

        Raises DamagedShardError where a shard opened for it is damaged.
        """
        assert 0 <= start <= start + count <= self.n_tokens, (start, count, self.n_tokens)
        tokens = np.empty(count, dtype=np.int32)
        index = int(np.searchsorted(self._starts, start, side="right")) - 1
        done = 0
        while done < count:
            offset = start + done - int(self._starts[index])
            piece = self._shard(index)[offset : offset + count - done]
            tokens[done : done + len(piece)] = piece
            done += len(piece)
            index += 1
        return tokens

    def _shard(self, index: int) -> NDArray[np.unsignedinteger]:
        """The mapped tokens of one shard, checked when first opened.

        The least recently used one is closed if too many are open: a mapping keeps its descriptor.
        """
        if index in self._open:
            self._open.move_to_end(index)
            return self._open[index]
        shard = self.shards[index]
        path = self.directory / shard.name
        while len(self._open) >= open_shards_max():
            self._open.popitem(last=False)
        try:
            found = _identity(path)
            _check_shard(path, shard, verify=self.verify and found != self._checked.get(index))
            self._open[index] = np.memmap(path, dtype=self._dtype, mode="r")
        except (OSError, ValueError) as error:  # ValueError: it was cut short since its size was checked
            raise _unreadable(path, shard, error) from error
        self._checked[index] = found
        return self._open[index]


def _identity(path: Path) -> tuple[int, ...]:
    """What changes if a file is replaced or written to.  Raises OSError."""
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def open_shards_max() -> int:
    """Shards of one split that this process keeps open, by its limit of descriptors (`ulimit -n`)."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = OPEN_SHARDS_MAX if soft == resource.RLIM_INFINITY else soft // OPEN_SHARDS_SHARE
    return max(1, min(OPEN_SHARDS_MAX, allowed))


COPY_HINT = "copy the file again, or make the dataset anew; then `llmrun resume` goes on"


def _unreadable(path: Path, shard: Shard, error: OSError | ValueError) -> RunFailedError:
    """The error for a shard that the system did not open: damage only if the file itself is at fault."""
    reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
    says = f"cannot read the shard {shard.name}: {reason}"
    if isinstance(error, OSError) and error.errno in TOO_MANY_FILES:
        return RunFailedError(says, where=str(path), hints=hints_for(error))
    return DamagedShardError(says, where=str(path), hints=[COPY_HINT])


def _check_shard(path: Path, shard: Shard, *, verify: bool) -> None:
    """Size always, sha256 if `verify`.  Raises DamagedShardError and OSError."""
    hints = [COPY_HINT]
    n_bytes = path.stat().st_size
    found = sha256_once(path, shard.sha256) if verify and n_bytes == shard.bytes else shard.sha256
    if n_bytes != shard.bytes:
        raise DamagedShardError(
            f"the shard {shard.name} is damaged: it has {n_bytes:,} bytes, dataset.json says {shard.bytes:,}",
            where=str(path),
            hints=hints,
        )
    if found != shard.sha256:
        raise DamagedShardError(
            f"the shard {shard.name} is damaged: its sha256 is not what dataset.json says",
            where=str(path),
            caused_by=[f"expected sha256 {shard.sha256}", f"found    sha256 {found}"],
            hints=hints,
        )
