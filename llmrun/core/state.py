"""The state of training on one rank (weights, optimizer, step), and the digests of whole tensors over all ranks."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llmrun.core.combined_digest import TensorDigest
from llmrun.core.optimizer import ShardedOptimizer
from llmrun.core.parallel.base import Strategy
from llmrun.core.parallel.select import strategy_of
from llmrun.core.reduce.collectives import gather_integers, sum_columns
from llmrun.core.reduce.layout import SharePiece, Slot
from llmrun.core.tensor_digest import Digester, words_of
from llmrun.core.training_spec import TrainingSpec


@dataclass(frozen=True)
class StateShard:
    """This rank's part of one kind of tensor: weights, gradients, or a moment of the parameters that have it.

    values: [n], float32.
    slots:  the parameters that have such a tensor, in flat order, the same on every rank.
    pieces: what of them lies where in `values`.
    """

    values: Tensor
    slots: tuple[Slot, ...]
    pieces: tuple[SharePiece, ...]


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
    optimizer: ShardedOptimizer
    digester: Digester
    n_windows: int
    step: int = 0

    @property
    def D(self) -> int:
        """Ranks that share a step."""
        return self.spec.batch.D

    @property
    def shards(self) -> dict[str, StateShard]:
        """This rank's weights and moments: all tensors that a checkpoint holds.

        Keys: what a checkpoint appends to a parameter's name: "" for the weight, "." and the moment's name.
        """
        found = {WEIGHTS: self.as_shard(self.strategy.weights)}
        for name, moment in self.optimizer.moments.items():
            pieces = self.strategy.share.pieces_in(moment.part)
            found[f".{name}"] = StateShard(moment.values, self._slots_updated_by(moment.optimizer), pieces)
        return found

    def as_shard(self, values: Tensor) -> StateShard:
        """Weights or gradients of this rank's share, [share.size], float32, as a `StateShard`."""
        return StateShard(values, self.strategy.slots, self.strategy.share.pieces)

    def _slots_updated_by(self, optimizer: str) -> tuple[Slot, ...]:
        """The parameters that one optimizer updates, in flat order."""
        names = {name for group in self.spec.groups if group.optimizer == optimizer for name in group.names}
        return tuple(slot for slot in self.strategy.slots if slot.name in names)

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
        optimizer=ShardedOptimizer(
            strategy.weights, strategy.share_of, rank, spec.batch.D, spec.groups, spec.optimizer
        ),
        digester=Digester(device),
        n_windows=n_windows,
    )


WEIGHTS = ""
"""The key of the weights in `TrainingState.shards`."""

DTYPE = "F32"


def partial_digests(state: TrainingState, shard: StateShard) -> list[int]:
    """Digests of this rank's part of each of the shard's tensors, by `shard.slots`; 0 if it holds none."""
    words = [words_of(shard.values[p.own_start : p.own_start + p.count], p.start) for p in shard.pieces]
    found = dict(zip((p.slot.name for p in shard.pieces), state.digester.digests(words), strict=True))
    return [found.get(slot.name, 0) for slot in shard.slots]


def whole_digests(
    state: TrainingState, shards: Mapping[str, StateShard], integers: Iterable[int] = ()
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
    digests = {suffix: [next(sums) for _ in shard.slots] for suffix, shard in shards.items()}
    return digests, [row[: len(own)] for row in rows]


def slots_by_suffix(state: TrainingState) -> dict[str, tuple[Slot, ...]]:
    """The parameters that have a tensor of each kind, by the keys of `TrainingState.shards`."""
    return {suffix: shard.slots for suffix, shard in state.shards.items()}


def by_name(
    slots: Mapping[str, Sequence[Slot]], digests: Mapping[str, Sequence[int]]
) -> dict[str, TensorDigest]:
    """Whole-tensor digests, by suffix and in flat order, under the names of a checkpoint, with dtype and shape.

    slots: of each suffix, as in `slots_by_suffix`.
    """
    return {
        slot.name + suffix: TensorDigest(DTYPE, slot.shape, digest)
        for suffix, found in digests.items()
        for slot, digest in zip(slots[suffix], found, strict=True)
    }
