"""An error in the backward pass."""

import torch
from small import Small
from torch import nn


class Broken(torch.autograd.Function):
    """Has no backward pass."""

    @staticmethod
    def forward(_context, x):
        """Nothing."""
        return x.clone()

    @staticmethod
    def backward(_context, _gradient):
        """Fail."""
        raise ValueError("no gradient here")


class Part(nn.Module):
    """The offender."""

    def forward(self, x):
        """Apply it."""
        return Broken.apply(x)


def model(vocab_size: int) -> nn.Module:
    """The model."""
    return Small(vocab_size, Part())
