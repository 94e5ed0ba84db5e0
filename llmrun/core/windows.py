"""Windows of a split: window w is tokens [w·L, w·L + L + 1) of its stream, L = L_ctx."""

import numpy as np
from numpy.typing import NDArray

from llmrun.core.token_stream import TokenStream


def count_windows(n_tokens: int, L_ctx: int) -> int:
    """W = floor((n-1)/L): a window needs one token more than L for its last target."""
    return max(n_tokens - 1, 0) // L_ctx


class Split:
    """One split of a dataset cut into windows of L_ctx + 1 tokens; it has at least one."""

    def __init__(self, stream: TokenStream, L_ctx: int) -> None:
        self.L_ctx = L_ctx
        self.n_windows = count_windows(stream.n_tokens, L_ctx)
        self._stream = stream
        assert self.n_windows > 0, (stream.n_tokens, L_ctx)

    def window(self, w: int) -> NDArray[np.int32]:
        """Window `w` in [0, n_windows): int32 [L_ctx + 1].  Raises what opening a shard raises."""
        assert 0 <= w < self.n_windows, (w, self.n_windows)
        return self._stream.tokens(w * self.L_ctx, self.L_ctx + 1)
