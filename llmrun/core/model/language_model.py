"""What the loop, the strategies and `llmrun sample` call of a built model."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor, nn


class LanguageModel(Protocol):
    """A built model: an `nn.Module` whose forward pass returns the sum of its losses."""

    def __call__(self, tokens: "Tensor") -> "tuple[Tensor, int]":
        """The loss of one micro-batch.

        tokens: [sequences, L_ctx + 1], int64.
        Returns (sum of the token losses: scalar, float32, natural log; number of target tokens).
        """
        ...

    def named_parameters(self) -> "Iterator[tuple[str, nn.Parameter]]":
        """Parameters by name, in the order of `ModelSpec.parameters`; names key initialisation, digests and files."""
        ...

    def named_buffers(self) -> "Iterator[tuple[str, Tensor]]":
        """Buffers, which training does not change."""
        ...

    def train(self) -> object:
        """Switch dropout on."""
        ...

    def eval(self) -> object:
        """Switch dropout off."""
        ...


class NextTokenModel(Protocol):
    """A built model that `llmrun sample` can draw from."""

    def logits(self, tokens: "Tensor") -> "Tensor":
        """Next-token logits: [sequences, L], int64 -> [sequences, L, vocab_size]."""
        ...
