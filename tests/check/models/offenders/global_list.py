"""A list of the Python module that every pass extends."""

from small import Small
from torch import nn

SEEN: list[float] = []


class Part(nn.Module):
    """The offender."""

    def forward(self, x):
        """Scale by the number of passes so far."""
        SEEN.append(0.0)
        return x * (1.0 + 0.01 * len(SEEN))


def model(vocab_size: int) -> nn.Module:
    """The model."""
    return Small(vocab_size, Part())
