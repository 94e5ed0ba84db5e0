"""Windows of a split: window w is tokens [w·L, w·L + L + 1) of its stream, L = L_ctx."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llmrun.core.shards import TokenReader
from llmrun.data.manifest import Manifest
from llmrun.errors import InputError


def count_windows(n_tokens: int, L_ctx: int) -> int:
    """W = floor((n-1)/L): each window needs one token beyond its L for the last target."""
    return max(n_tokens - 1, 0) // L_ctx


class Split:
    """One split of a dataset cut into windows.  Safe to pickle and cheap to make: shards open lazily."""

    def __init__(self, directory: Path, manifest: Manifest, name: str, L_ctx: int, verify: bool) -> None:
        """Raises InputError where the split is too small for one window."""
        self.name = name
        self.L_ctx = L_ctx
        self.reader = TokenReader(directory, manifest, name, verify=verify)
        self.n_windows = count_windows(self.reader.n_tokens, L_ctx)
        if self.n_windows == 0:
            raise InputError(
                f"the split {name} has {self.reader.n_tokens:,} tokens;"
                f" one window takes L_ctx + 1 = {L_ctx + 1:,}",
                where=str(directory),
                hints=[_remedy(name)],
            )

    def window(self, w: int) -> NDArray[np.int32]:
        """Window `w` in [0, n_windows): int32 [L_ctx + 1].  Raises DamagedShardError."""
        assert 0 <= w < self.n_windows, (w, self.n_windows)
        return self.reader.tokens(w * self.L_ctx, self.L_ctx + 1)


def _remedy(name: str) -> str:
    if name == "val":
        return "lower L_ctx, or prepare the dataset with a larger --val-fraction"
    return "lower L_ctx, or prepare the dataset from more text"
