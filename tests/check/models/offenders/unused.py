"""A parameter that no pass uses."""

import torch
from small import Small
from torch import nn


class Part(nn.Module):
    """The offender."""

    def __init__(self, width):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))
        self.forgotten = nn.Parameter(torch.ones(width))

    def forward(self, x):
        """Scale."""
        return x * self.scale


def model(vocab_size: int) -> nn.Module:
    """The model."""
    return Small(vocab_size, Part(32))
