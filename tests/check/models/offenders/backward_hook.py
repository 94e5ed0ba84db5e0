"""A buffer that a backward hook changes and the forward pass reads."""

import torch
from small import Small
from torch import nn


class Part(nn.Module):
    """The offender."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()), persistent=False)
        self.register_full_backward_hook(self._note)

    def _note(self, _module, _inputs, gradients):
        self.seen += gradients[0].detach().float().abs().mean()

    def forward(self, x):
        """Scale by the gradients so far."""
        return x * (1.0 + self.seen)


def model(vocab_size: int) -> nn.Module:
    """The model."""
    return Small(vocab_size, Part())
