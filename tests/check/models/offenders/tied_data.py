"""Two parameters that share their memory: training gives each its own, so they are tied only at first sight."""

from small import Small
from torch import nn


def model(vocab_size: int) -> nn.Module:
    """The model."""
    module = Small(vocab_size, nn.Identity())
    module.head.weight.data = module.table.weight.data
    return module
