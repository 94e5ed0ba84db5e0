"""The rank is read from the environment."""

import os

from small import Small
from torch import nn


class Part(nn.Module):
    """The offender."""

    def forward(self, x):
        """Scale by the rank."""
        return x * (1.0 + 0.1 * int(os.environ["RANK"]))


def model(vocab_size: int) -> nn.Module:
    """The model."""
    return Small(vocab_size, Part())
