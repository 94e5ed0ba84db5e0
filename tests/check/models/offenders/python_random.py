"""Dropout that draws from Python's generator: it goes on from micro-batch to micro-batch."""

import random

from small import Small
from torch import nn


class Part(nn.Module):
    """The offender."""

    def forward(self, x):
        """Drop whole elements of the batch."""
        keep = [float(random.random() < 0.5) for _ in range(x.shape[-1])]
        return x * x.new_tensor(keep)


def model(vocab_size: int) -> nn.Module:
    """The model."""
    return Small(vocab_size, Part())
