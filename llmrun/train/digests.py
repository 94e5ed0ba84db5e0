"""Digests of sharded state: each rank digests its shard, partial digests add up."""

from collections.abc import Mapping

from torch import Tensor

from llmrun.ledger.combine import TensorDigest
from llmrun.ledger.digest import Digester, words_of
from llmrun.reduce.layout import FlatLayout
from llmrun.train.optimizer import MOMENTS

DTYPE = "F32"


def partial_digests(digester: Digester, layout: FlatLayout, rank: int, shard: Tensor) -> list[int]:
    """Digests of this rank's part of every parameter, in flat order; 0 where it holds none.

    shard: [shard_size], float32: this rank's shard of weights, gradients or a moment.
    """
    own = layout.shard(rank)
    pieces = layout.pieces(own)
    words = [
        words_of(shard[p.flat_start - own.start : p.flat_start - own.start + p.count], p.start)
        for p in pieces
    ]
    found = dict(zip((p.slot.name for p in pieces), digester.digests(words), strict=True))
    return [found.get(name, 0) for name in layout.names]


def by_name(layout: FlatLayout, digests: list[int], suffix: str = "") -> dict[str, TensorDigest]:
    """Whole-tensor digests with what a combined digest needs: dtype and shape."""
    return {
        slot.name + suffix: TensorDigest(DTYPE, slot.shape, digest)
        for slot, digest in zip(layout.slots, digests, strict=True)
    }


def moments_by_name(layout: FlatLayout, digests: Mapping[str, list[int]]) -> dict[str, TensorDigest]:
    """Digests of both moments under the names that a checkpoint gives them."""
    named: dict[str, TensorDigest] = {}
    for moment in MOMENTS:
        named |= by_name(layout, digests[moment], f".{moment}")
    return named
