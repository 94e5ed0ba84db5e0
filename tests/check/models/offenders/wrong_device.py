"""A table on another device, which a plain attribute keeps there."""

import torch
from small import Small
from torch import nn


class Part(nn.Module):
    """The offender."""

    def __init__(self):
        super().__init__()
        self.scale = torch.ones((), device="meta")

    def forward(self, x):
        """Scale."""
        return x * self.scale + torch.zeros_like(x)


def model(vocab_size: int) -> nn.Module:
    """The model."""
    return Small(vocab_size, Part())
