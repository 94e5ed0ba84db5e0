"""`max_unpool1d`, which deterministic mode refuses on every device."""

import torch.nn.functional as F
from small import Small
from torch import nn


class Part(nn.Module):
    """The offender."""

    def forward(self, x):
        """Pool and unpool the width."""
        pooled, places = F.max_pool1d(x, 2, return_indices=True)
        return x + F.max_unpool1d(pooled, places, 2)


def model(vocab_size: int) -> nn.Module:
    """The model."""
    return Small(vocab_size, Part())
