"""BatchNorm: running statistics, and rows of a batch that depend on each other."""

from small import Small
from torch import nn


class Part(nn.Module):
    """The offender."""

    def __init__(self, width):
        super().__init__()
        self.norm = nn.BatchNorm1d(width)

    def forward(self, x):
        """Normalise over the batch."""
        return self.norm(x.transpose(1, 2)).transpose(1, 2)


def model(vocab_size: int) -> nn.Module:
    """The model."""
    return Small(vocab_size, Part(32))
