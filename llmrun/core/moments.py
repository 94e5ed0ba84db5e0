"""What the optimizers share: a moment on a part of a rank's share, and the learning rate of a step."""

from collections.abc import Callable

import torch
from torch import Tensor

from llmrun.core.parameter_groups import OptimizerName

RateOf = Callable[[float], float]
"""The learning rate of a step from the peak learning rate."""


class Moment:
    """One kind of optimizer state of the parameters in a range of a rank's share.

    optimizer: that updates these parameters.
    part:      the range, in which sections begin and end.
    values:    [len(part)], float32.
    """

    def __init__(self, optimizer: OptimizerName, weights: Tensor, part: range) -> None:
        self.optimizer = optimizer
        self.part = part
        self.values = torch.zeros_like(weights[part.start : part.stop])
