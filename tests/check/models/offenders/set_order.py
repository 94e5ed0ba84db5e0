"""The order of a set of names decides the order of a sum."""

from small import Small
from torch import nn

NAMES = {f"expert_{index}" for index in range(8)}


class Part(nn.Module):
    """The offender."""

    def forward(self, x):
        """Multiply and add in the order of the set."""
        for index, name in enumerate(NAMES):
            x = x * (1.0 + 0.01 * index) + 0.001 * int(name.rpartition("_")[2])
        return x


def model(vocab_size: int) -> nn.Module:
    """The model."""
    return Small(vocab_size, Part())
