"""The state of training on one rank (weights, optimizer, step), and the digests of whole tensors over all ranks."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llmrun.core.combined_digest import TensorDigest
from llmrun.core.optimizer import MOMENTS, ShardedAdamW
from llmrun.core.parallel.base import Strategy
from llmrun.core.parallel.select import strategy_of
from llmrun.core.reduce.collectives import gather_integers, sum_columns
from llmrun.core.reduce.layout import Slot
from llmrun.core.tensor_digest import Digester, words_of
from llmrun.core.training_spec import TrainingSpec


@dataclass
class TrainingState:
    """Everything that a step changes.

    n_windows: windows of the training split, of which an epoch is made.
    step:      finished optimizer steps.
    """

    spec: TrainingSpec
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
        return self.spec.batch.D

    @property
    def shards(self) -> dict[str, Tensor]:
        """This rank's weights and moments, each [share.size], float32: all tensors that a checkpoint holds.

        Keys: what a checkpoint appends to a parameter's name, "" for the weight, ".exp_avg", ".exp_avg_sq".
        """
        return {
            WEIGHTS: self.strategy.weights,
            **{f".{name}": self.optimizer.moments[name] for name in MOMENTS},
        }

    @property
    def is_bf16(self) -> bool:
        """Whether forward passes run under bfloat16 autocast."""
        return self.spec.precision == "bf16"


def initial_state(spec: TrainingSpec, rank: int, device: torch.device, n_windows: int) -> TrainingState:
    """The state before step 1: initial weights, moments of zero."""
    strategy = strategy_of(spec, rank, device)
    return TrainingState(
        spec=spec,
        rank=rank,
        device=device,
        strategy=strategy,
        optimizer=ShardedAdamW(strategy.weights, strategy.share, spec.optimizer),
        digester=Digester(device),
        n_windows=n_windows,
    )


WEIGHTS = ""
"""The key of the weights in `TrainingState.shards`."""

DTYPE = "F32"


def partial_digests(state: TrainingState, values: Tensor) -> list[int]:
    """Digests of this rank's part of every parameter, in flat order; 0 if it holds none.

    values: [share.size], float32: this rank's weights, gradients or one of its moments.
    """
    pieces = state.strategy.share.pieces
    words = [words_of(values[p.own_start : p.own_start + p.count], p.start) for p in pieces]
    found = dict(zip((p.slot.name for p in pieces), state.digester.digests(words), strict=True))
    return [found.get(slot.name, 0) for slot in state.strategy.slots]


def whole_digests(
    state: TrainingState, shards: Mapping[str, Tensor], integers: Iterable[int] = ()
) -> tuple[dict[str, list[int]], list[list[int]]]:
    """Digests of whole tensors over all ranks.  A collective: one all-gather.

    shards:   of this rank, as in `TrainingState.shards` or one of its gradients.
    integers: further small integers of this rank that every rank shall see, as many on each.
    Returns (the digests of each shard's tensors in flat order, the integers of each rank).
    """
    own = list(integers)
    partial = [digest for shard in shards.values() for digest in partial_digests(state, shard)]
    rows = gather_integers([*own, *partial], state.D, state.device)
    sums = iter(sum_columns([row[len(own) :] for row in rows]))
    digests = {suffix: [next(sums) for _ in state.strategy.slots] for suffix in shards}
    return digests, [row[: len(own)] for row in rows]


def by_name(slots: Sequence[Slot], digests: Mapping[str, Sequence[int]]) -> dict[str, TensorDigest]:
    """Whole-tensor digests, by suffix and in flat order, under the names of a checkpoint, with dtype and shape."""
    return {
        slot.name + suffix: TensorDigest(DTYPE, slot.shape, digest)
        for suffix, found in digests.items()
        for slot, digest in zip(slots, found, strict=True)
    }
