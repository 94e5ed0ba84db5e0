"""A mask that the first pass makes: a resumed run makes another one if the first batch differs."""

import torch
from small import Small
from torch import nn


class Part(nn.Module):
    """The offender."""

    def __init__(self):
        super().__init__()
        self.mask = None

    def forward(self, x):
        """Keep the elements that were positive in the first pass."""
        if self.mask is None:
            self.mask = (x.detach() > 0).to(torch.float32).mean((0, 1))
        return x * self.mask


def model(vocab_size: int) -> nn.Module:
    """The model."""
    return Small(vocab_size, Part())
