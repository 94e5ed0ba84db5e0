"""Noise from the system."""

import os

from small import Small
from torch import nn


class Part(nn.Module):
    """The offender."""

    def forward(self, x):
        """Scale by noise."""
        return x * (1.0 + os.urandom(1)[0] / 1e4)


def model(vocab_size: int) -> nn.Module:
    """The model."""
    return Small(vocab_size, Part())
