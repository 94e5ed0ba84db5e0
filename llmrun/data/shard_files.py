"""The files of a split's shards: memory-mapped, opened and checked when first needed."""

import resource
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmrun.core.shards import TokenStream
from llmrun.core.windows import Split, count_windows
from llmrun.data.manifest import DatasetManifest, TokenShard
from llmrun.data.verified_shards import sha256_once
from llmrun.errors import TOO_MANY_FILES, InputError, RunFailedError, hints_for

OPEN_SHARDS_MAX = 256
"""Shards of one split that a process keeps open at most."""

OPEN_SHARDS_SHARE = 8
"""Of the descriptors that a process may have, one split's shards take at most 1 in this many."""


class DamagedShardError(RunFailedError):
    """A shard's content is not what the manifest says (exit 4: found while training)."""


def open_split(directory: Path, manifest: DatasetManifest, name: str, L_ctx: int, verify: bool) -> Split:
    """One split of a dataset cut into windows.  Safe to pickle and cheap to make: shards are opened when needed.

    Raises InputError if the split is too small for one window.
    """
    split = manifest.splits[name]
    if count_windows(split.tokens, L_ctx) == 0:
        raise InputError(
            f"the split {name} has {split.tokens:,} tokens; one window takes L_ctx + 1 = {L_ctx + 1:,}",
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
    """The bytes of a split's shards by index.  Safe to pickle: each process opens shards for itself."""

    def __init__(self, directory: Path, shards: Sequence[TokenShard], *, verify: bool) -> None:
        self._directory, self._shards, self._verify = directory, shards, verify
        self._checked: dict[int, tuple[int, ...]] = {}
        self._open: OrderedDict[int, NDArray[np.uint8]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_checked": {}, "_open": OrderedDict()}

    def __call__(self, index: int) -> NDArray[np.uint8]:
        """The mapped bytes of one shard, checked when first opened: uint8 [bytes].

        The least recently used one is closed if too many are open: a mapping keeps its descriptor.
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


def _unreadable(path: Path, shard: TokenShard, error: OSError | ValueError) -> RunFailedError:
    """The error for a shard that the system did not open: damage only if the file itself is at fault."""
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
