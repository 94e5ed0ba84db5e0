"""Imports `random` and means the file of that name beside it, which Python does not import."""

import random

from small import Small
from torch import nn

SCALE = getattr(random, "SCALE", 1.0)


class Part(nn.Module):
    """The offender."""

    def forward(self, x):
        """Scale."""
        return x * SCALE


def model(vocab_size: int) -> nn.Module:
    """The model."""
    return Small(vocab_size, Part())
