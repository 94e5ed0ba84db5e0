"""Reading tokens across shards: memory-mapped, opened and checked when first needed."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmrun.data.manifest import DTYPES, Manifest, Shard
from llmrun.data.marks import sha256_once
from llmrun.errors import RunFailedError


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
        self._open: dict[int, NDArray[np.unsignedinteger]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}

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
        """The mapped tokens of one shard, checked when first opened."""
        if index not in self._open:
            shard = self.shards[index]
            path = self.directory / shard.name
            _check_shard(path, shard, verify=self.verify)
            self._open[index] = np.memmap(path, dtype=self._dtype, mode="r")
        return self._open[index]


def _check_shard(path: Path, shard: Shard, *, verify: bool) -> None:
    """Size always, sha256 where `verify`."""
    hints = ["copy the file again, or make the dataset anew; then `llmrun resume` goes on"]
    try:
        n_bytes = path.stat().st_size
        found = sha256_once(path, shard.sha256) if verify and n_bytes == shard.bytes else shard.sha256
    except OSError as error:
        raise DamagedShardError(
            f"cannot read the shard {shard.name}: {error.strerror}", where=str(path), hints=hints
        ) from error
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
