"""Writing one split: tokens come in, shards of a fixed number of tokens go out, hashed while written."""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llmrun.data.manifest import DTYPES, Shard, SplitRecord
from llmrun.data.stream_digest import StreamDigest
from llmrun.durable import DISK, Disk, blocks_of

BUFFER_TOKENS = 2**20


class ShardWriter:
    """Writes `<split>-00000.bin`, `<split>-00001.bin`, … into a directory, each fsynced."""

    def __init__(self, directory: Path, split: str, dtype: str, shard_tokens: int, disk: Disk = DISK) -> None:
        self.n_tokens = 0
        self._directory, self._split = directory, split
        self._dtype, self._shard_tokens = DTYPES[dtype], shard_tokens
        self._disk = disk
        self._stream = StreamDigest()
        self._shards: list[Shard] = []
        self._waiting: list[NDArray[np.unsignedinteger]] = []
        self._n_waiting = 0
        self._descriptor: int | None = None
        self._digest = hashlib.sha256()
        self._tokens_in_shard = 0

    def append(self, tokens: NDArray[np.unsignedinteger]) -> None:
        """Add tokens [n] of any unsigned dtype, each within the split's own."""
        self._waiting.append(tokens.astype(self._dtype))
        self._n_waiting += len(tokens)
        if self._n_waiting >= BUFFER_TOKENS:
            self._flush()

    def finish(self, documents: int, bytes_of_text: int) -> SplitRecord:
        """Close the last shard; what the manifest says of the split."""
        self._flush()
        self._close_shard()
        return SplitRecord(
            shards=tuple(self._shards),
            tokens=self.n_tokens,
            documents=documents,
            bytes_of_text=bytes_of_text,
            stream_digest=self._stream.hexdigest(),
        )

    def abandon(self) -> None:
        """Close an open shard without finishing it."""
        if self._descriptor is not None:
            self._disk.close(self._descriptor)
            self._descriptor = None

    def _flush(self) -> None:
        """Write what waits, across as many shards as it takes."""
        if not self._n_waiting:
            return
        tokens = np.concatenate(self._waiting)
        self._waiting, self._n_waiting = [], 0
        self._stream.update(tokens)
        self.n_tokens += len(tokens)
        while len(tokens):
            here = min(len(tokens), self._shard_tokens - self._tokens_in_shard)
            self._write(tokens[:here])
            tokens = tokens[here:]
            if self._tokens_in_shard == self._shard_tokens:
                self._close_shard()

    def _write(self, tokens: NDArray[np.unsignedinteger]) -> None:
        if self._descriptor is None:
            self._descriptor = self._disk.create(self._directory / self._name())
        for block in blocks_of(tokens.data):
            self._disk.write(self._descriptor, block)
            self._digest.update(block)
        self._tokens_in_shard += len(tokens)

    def _close_shard(self) -> None:
        if self._descriptor is None:
            return
        self._disk.fsync(self._descriptor)
        self._disk.close(self._descriptor)
        self._descriptor = None
        self._shards.append(
            Shard(
                name=self._name(),
                bytes=self._tokens_in_shard * self._dtype.itemsize,
                sha256=self._digest.hexdigest(),
                tokens=self._tokens_in_shard,
            )
        )
        self._digest = hashlib.sha256()
        self._tokens_in_shard = 0

    def _name(self) -> str:
        return f"{self._split}-{len(self._shards):05d}.bin"
