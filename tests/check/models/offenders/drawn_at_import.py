"""A number that is drawn when the module is imported."""

import os

from small import Small
from torch import nn

SCALE = 1.0 + int.from_bytes(os.urandom(4), "little") / 2**33


class Part(nn.Module):
    """The offender."""

    def forward(self, x):
        """Scale by it."""
        return x * SCALE


def model(vocab_size: int) -> nn.Module:
    """The model."""
    return Small(vocab_size, Part())
