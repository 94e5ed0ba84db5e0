"""The time decides."""

import time

from small import Small
from torch import nn


class Part(nn.Module):
    """The offender."""

    def forward(self, x):
        """Scale by the time."""
        return x * (1.0 + time.time_ns() % 1000 / 1e4)


def model(vocab_size: int) -> nn.Module:
    """The model."""
    return Small(vocab_size, Part())
