"""Weights that are tied by an assignment in the first forward pass, after the model was built."""

from small import Small
from torch import nn


class Tied(Small):
    """Ties the head to the table when it runs."""

    def forward(self, tokens):
        """Tie, then run."""
        if self.head.weight is not self.table.weight:
            self.head.weight = self.table.weight
        return super().forward(tokens)


def model(vocab_size: int) -> nn.Module:
    """The model."""
    return Tied(vocab_size, nn.Identity())
