"""Writes the token stream of a split as shards: files of a fixed number of tokens."""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llmrun.core.token_stream import DTYPES
from llmrun.data.manifest import SplitRecord, TokenShard
from llmrun.data.stream_digest import StreamDigest
from llmrun.storage.durable import DISK, Disk, blocks_of

BUFFER_TOKENS = 2**20
"""Tokens collected in memory before they are written."""


class ShardWriter:
    """Writes `<split>-00000.bin`, `<split>-00001.bin`, … into a directory, each fsynced."""

    def __init__(self, directory: Path, split: str, dtype: str, shard_tokens: int, disk: Disk = DISK) -> None:
        self.n_tokens = 0
        self._directory, self._split = directory, split
        self._dtype, self._shard_tokens = DTYPES[dtype], shard_tokens
        self._disk = disk
        self._stream = StreamDigest()
        self._shards: list[TokenShard] = []
        self._buffered: list[NDArray[np.unsignedinteger]] = []
        self._n_buffered = 0
        self._descriptor: int | None = None
        self._digest = hashlib.sha256()
        self._tokens_in_shard = 0

    def append(self, tokens: NDArray[np.unsignedinteger]) -> None:
        """Add tokens [n] of any unsigned dtype, each of which fits the dtype of the split."""
        self._buffered.append(tokens.astype(self._dtype))
        self._n_buffered += len(tokens)
        if self._n_buffered >= BUFFER_TOKENS:
            self._flush()

    def finish(self, documents: int, bytes_of_text: int) -> SplitRecord:
        """Close the last shard.  Returns the manifest's record of the split."""
        self._flush()
        self._close_shard()
        return SplitRecord(
            shards=tuple(self._shards),
            tokens=self.n_tokens,
            documents=documents,
            bytes_of_text=bytes_of_text,
            stream_digest=self._stream.hexdigest(),
        )

    def abort(self) -> None:
        """Close an open shard without completing it."""
        if self._descriptor is not None:
            self._disk.close(self._descriptor)
            self._descriptor = None

    def _flush(self) -> None:
        """Write the buffered tokens, to as many shards as they take."""
        if not self._n_buffered:
            return
        tokens = np.concatenate(self._buffered)
        self._buffered, self._n_buffered = [], 0
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
            TokenShard(
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
