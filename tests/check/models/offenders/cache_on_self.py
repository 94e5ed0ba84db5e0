"""The result of the pass before is kept on `self`."""

from small import Small
from torch import nn


class Part(nn.Module):
    """The offender."""

    def __init__(self):
        super().__init__()
        self.previous = None

    def forward(self, x):
        """Add some of the pass before."""
        result = x if self.previous is None else x + 0.1 * self.previous
        self.previous = x.detach()
        return result


def model(vocab_size: int) -> nn.Module:
    """The model."""
    return Small(vocab_size, Part())
