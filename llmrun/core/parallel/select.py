"""Which strategy a config asks for."""

from collections.abc import Sequence

import torch

from llmrun.config.resolve import Resolved
from llmrun.core.lanes import lanes_of_rank, strided_lanes
from llmrun.core.parallel.base import Strategy
from llmrun.core.parallel.replicate import Replicate
from llmrun.core.parallel.shard import Shard
from llmrun.core.parallel.torch_native import Ddp, NativeShard


def is_sharded(resolved: Resolved) -> bool:
    """Whether weights are sharded.  One rank has nothing to shard."""
    return resolved.config.strategy == "shard" and resolved.batch.D > 1


def hosted_lanes(resolved: Resolved, rank: int) -> Sequence[int | None]:
    """The lanes that `rank` runs, in order (`Strategy.lanes`), known before there is a model."""
    V, D = resolved.batch.V, resolved.batch.D
    return strided_lanes(V, D, rank) if is_sharded(resolved) else lanes_of_rank(V, D, rank)


def strategy_of(resolved: Resolved, rank: int, device: torch.device) -> Strategy:
    """The strategy with the initial weights."""
    if resolved.config.reproducibility.mode == "statistical":
        return NativeShard(resolved, rank, device) if is_sharded(resolved) else Ddp(resolved, rank, device)
    return Shard(resolved, rank, device) if is_sharded(resolved) else Replicate(resolved, rank, device)
