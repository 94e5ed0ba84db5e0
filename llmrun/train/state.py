"""The state machine of training on one rank: weights, optimizer, and the step."""

from dataclasses import dataclass

import torch

from llmrun.config.resolve import Resolved
from llmrun.ledger.digest import Digester
from llmrun.train.optimizer import ShardedAdamW
from llmrun.train.strategies import strategy_of
from llmrun.train.strategy import Strategy


@dataclass
class TrainingState:
    """Everything that a step changes.

    n_windows: windows of the training split, of which an epoch is made.
    step:      finished optimizer steps.
    """

    resolved: Resolved
    rank: int
    device: torch.device
    strategy: Strategy
    optimizer: ShardedAdamW
    digester: Digester
    n_windows: int
    step: int = 0

    @property
    def D(self) -> int:
        """Ranks that share a step."""
        return self.resolved.batch.D

    @property
    def is_bf16(self) -> bool:
        """Whether forward passes run under bfloat16 autocast."""
        return self.resolved.config.precision == "bf16"


def initial_state(resolved: Resolved, rank: int, device: torch.device, n_windows: int) -> TrainingState:
    """The state before step 1: initial weights, moments of zero."""
    strategy = strategy_of(resolved, rank, device)
    return TrainingState(
        resolved=resolved,
        rank=rank,
        device=device,
        strategy=strategy,
        optimizer=ShardedAdamW(strategy.weights, strategy.share, resolved.config.optimizer),
        digester=Digester(device),
        n_windows=n_windows,
    )
