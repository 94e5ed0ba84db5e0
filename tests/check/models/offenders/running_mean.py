"""A running mean in a buffer, subtracted in the forward pass."""

import torch
from small import Small
from torch import nn


class Part(nn.Module):
    """The offender."""

    def __init__(self, width):
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))

    def forward(self, x):
        """Subtract the mean of what came before."""
        with torch.no_grad():
            self.mean.lerp_(x.float().mean((0, 1)), 0.1)
        return x - self.mean


def model(vocab_size: int) -> nn.Module:
    """The model."""
    return Small(vocab_size, Part(32))
