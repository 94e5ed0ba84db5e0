"""The token stream of a split, read across its shards."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

DTYPES: dict[str, np.dtype[np.unsignedinteger]] = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}
"""Storage of tokens by the dataset's dtype: little-endian."""


class TokenStream:
    """The token stream of one split: the tokens of its shards, one after the other."""

    def __init__(
        self, sizes: Sequence[int], dtype: str, open_shard: Callable[[int], NDArray[np.uint8]]
    ) -> None:
        """sizes: tokens in each shard.  open_shard: the bytes of a shard by its index, uint8 [bytes]."""
        self.n_tokens = sum(sizes)
        self._dtype = DTYPES[dtype]
        self._starts = np.cumsum([0, *sizes])
        self._open_shard = open_shard

    def tokens(self, start: int, count: int) -> NDArray[np.int32]:
        """Tokens [start, start + count) of the stream: a new int32 array [count].  Raises what opening a shard raises."""
        assert 0 <= start <= start + count <= self.n_tokens, (start, count, self.n_tokens)
        tokens = np.empty(count, dtype=np.int32)
        index = int(np.searchsorted(self._starts, start, side="right")) - 1
        done = 0
        while done < count:
            offset = start + done - int(self._starts[index])
            piece = self._open_shard(index).view(self._dtype)[offset : offset + count - done]
            tokens[done : done + len(piece)] = piece
            done += len(piece)
            index += 1
        return tokens
