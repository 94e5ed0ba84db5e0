"""The state of training on one rank (weights, optimizer, step) and the digests of its shards."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llmrun.core.digest import Digester, words_of
from llmrun.core.optimizer import MOMENTS, ShardedAdamW
from llmrun.core.parallel.base import Strategy
from llmrun.core.parallel.select import strategy_of
from llmrun.core.reduce.layout import Slot
from llmrun.core.tensor_digest import TensorDigest
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


DTYPE = "F32"


def partial_digests(state: TrainingState, values: Tensor) -> list[int]:
    """Digests of this rank's part of every parameter, in flat order; 0 where it holds none.

    values: [share.size], float32: this rank's weights, gradients or one of its moments.
    """
    pieces = state.strategy.share.pieces
    words = [words_of(values[p.own_start : p.own_start + p.count], p.start) for p in pieces]
    found = dict(zip((p.slot.name for p in pieces), state.digester.digests(words), strict=True))
    return [found.get(slot.name, 0) for slot in state.strategy.slots]


def by_name(slots: Sequence[Slot], digests: list[int], suffix: str = "") -> dict[str, TensorDigest]:
    """Whole-tensor digests with what a combined digest needs: dtype and shape."""
    return {
        slot.name + suffix: TensorDigest(DTYPE, slot.shape, digest)
        for slot, digest in zip(slots, digests, strict=True)
    }


def moments_by_name(slots: Sequence[Slot], digests: Mapping[str, list[int]]) -> dict[str, TensorDigest]:
    """Digests of both moments under the names that a checkpoint gives them."""
    named: dict[str, TensorDigest] = {}
    for moment in MOMENTS:
        named |= by_name(slots, digests[moment], f".{moment}")
    return named
