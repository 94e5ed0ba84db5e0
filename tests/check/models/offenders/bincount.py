"""`bincount` with weights: deterministic on a CPU, refused on CUDA."""

import torch
from small import Small
from torch import nn


class Part(nn.Module):
    """The offender."""

    def forward(self, x):
        """Scale by the mean over groups of positions."""
        groups = torch.arange(x.shape[1], device=x.device) % 4
        weights = x.detach().float().mean((0, 2))
        return x * (1.0 + torch.bincount(groups, weights=weights).mean().to(x.dtype))


def model(vocab_size: int) -> nn.Module:
    """The model."""
    return Small(vocab_size, Part())
