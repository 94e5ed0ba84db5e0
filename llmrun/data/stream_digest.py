"""The stream digest of a split, which does not depend on its shards and dtype.

sha256 over the raw sha256 digests (32 bytes each) of consecutive blocks of 4 Mi tokens as uint32 little-endian; the
last block may be shorter.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

BLOCK_TOKENS = 4 * 2**20


class StreamDigest:
    """Computes the digest of a stream from pieces of any length."""

    def __init__(self) -> None:
        self._blocks = hashlib.sha256()
        self._block = hashlib.sha256()
        self._tokens_in_block = 0

    def update(self, tokens: NDArray[np.integer]) -> None:
        """Add tokens [n], any integer dtype, each in [0, 2^32)."""
        done = 0
        while done < len(tokens):
            here = min(len(tokens) - done, BLOCK_TOKENS - self._tokens_in_block)
            piece = np.ascontiguousarray(tokens[done : done + here], dtype="<u4")
            self._block.update(piece.data.cast("B"))
            self._tokens_in_block += here
            done += here
            if self._tokens_in_block == BLOCK_TOKENS:
                self._finish_block()

    def _finish_block(self) -> None:
        self._blocks.update(self._block.digest())
        self._block = hashlib.sha256()
        self._tokens_in_block = 0

    def hexdigest(self) -> str:
        """The digest of all tokens so far, in hex; more may follow."""
        blocks = self._blocks.copy()
        if self._tokens_in_block:
            blocks.update(self._block.digest())
        return blocks.hexdigest()
