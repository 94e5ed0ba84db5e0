"""Digests of sharded state: each rank digests its share, partial digests add up."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from llmrun.ledger.combine import TensorDigest
from llmrun.ledger.digest import words_of
from llmrun.reduce.layout import Slot
from llmrun.train.optimizer import MOMENTS
from llmrun.train.state import TrainingState

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
