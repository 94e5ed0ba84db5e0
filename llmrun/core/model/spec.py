"""All that the training loop knows of a model."""

from collections.abc import Iterator
from typing import Protocol

from torch import Tensor, nn


class LanguageModel(Protocol):
    """A module whose forward pass gives the sum of its losses."""

    def __call__(self, tokens: Tensor) -> tuple[Tensor, int]:
        """The loss of one micro-batch.

        tokens: [sequences, L_ctx + 1], int64.
        Returns (sum of the token losses: scalar, float32, natural log; number of target tokens).
        """
        ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names key initialisation, digests and checkpoint files; the order is fixed."""
        ...

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """Buffers; persistent ones belong to the checkpoint."""
        ...

    def train(self) -> object:
        """Dropout on."""
        ...

    def eval(self) -> object:
        """Dropout off."""
        ...
