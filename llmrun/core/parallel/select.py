"""The choice of the parallel strategy."""

from collections.abc import Sequence

import torch

from llmrun.core.lanes import lanes_of_rank, strided_lanes
from llmrun.core.parallel.base import Strategy
from llmrun.core.parallel.replicate import Replicate
from llmrun.core.training_spec import TrainingSpec


def is_sharded(spec: TrainingSpec) -> bool:
    """Whether weights are sharded; one rank has nothing to shard."""
    return spec.strategy == "shard" and spec.batch.D > 1


def hosted_lanes(spec: TrainingSpec, rank: int) -> Sequence[int | None]:
    """The lanes that `rank` runs, in order, as `Strategy.lanes`, before a model is built."""
    V, D = spec.batch.V, spec.batch.D
    return strided_lanes(V, D, rank) if is_sharded(spec) else lanes_of_rank(V, D, rank)


def strategy_of(spec: TrainingSpec, rank: int, device: torch.device) -> Strategy:
    """The strategy that the spec asks for, with initial weights.

    Modules are imported late: FSDP is a third of a worker's imports, and only sharding needs it.
    """
    if spec.is_statistical:
        from llmrun.core.parallel.torch_native import Ddp, NativeShard

        return NativeShard(spec, rank, device) if is_sharded(spec) else Ddp(spec, rank, device)
    if is_sharded(spec):
        from llmrun.core.parallel.shard import Shard

        return Shard(spec, rank, device)
    return Replicate(spec, rank, device)
