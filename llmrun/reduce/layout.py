"""How the parameters lie in one flat buffer, and how it is cut among ranks: integers only.

Every parameter starts at a multiple of 64 elements, and so does every shard: the update of an element must
not depend on where its shard was cut, and fused kernels treat a tail of fewer than 16 elements differently.
Parameters with weight decay come first, so that a shard is at most two pieces of one kind each.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

ALIGNMENT = 64


def aligned(n_elements: int, unit: int = ALIGNMENT) -> int:
    """`n_elements` rounded up to a multiple of `unit`."""
    return -(-n_elements // unit) * unit


@dataclass(frozen=True)
class Slot:
    """Where one parameter lies: elements [start, start + numel) of the flat buffer."""

    name: str
    shape: tuple[int, ...]
    start: int

    @property
    def numel(self) -> int:
        """Elements of the parameter, without padding."""
        return prod(self.shape)


@dataclass(frozen=True)
class FlatPiece:
    """The part of one parameter that lies in a shard.

    start: first element in the flattened parameter.  flat_start: the same element in the flat buffer.
    """

    slot: Slot
    start: int
    flat_start: int
    count: int


@dataclass(frozen=True)
class FlatLayout:
    """The flat buffer of a model cut into D equal shards; padding stays zero for ever."""

    slots: tuple[Slot, ...]
    decay_stop: int
    total: int
    D: int

    @property
    def shard_size(self) -> int:
        """Elements of each shard, a multiple of 64."""
        return self.total // self.D

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Parameter names in flat order."""
        return tuple(slot.name for slot in self.slots)

    def shard(self, rank: int) -> range:
        """The elements that `rank` owns."""
        return range(rank * self.shard_size, (rank + 1) * self.shard_size)

    def pieces(self, shard: range) -> list[FlatPiece]:
        """The parts of parameters in a shard, ascending, without padding and without empty ones."""
        found = []
        for slot in self.slots:
            first, last = max(slot.start, shard.start), min(slot.start + slot.numel, shard.stop)
            if first < last:
                found.append(FlatPiece(slot, first - slot.start, first, last - first))
        return found


def flat_layout(shapes: Mapping[str, Sequence[int]], D: int) -> FlatLayout:
    """The layout of parameters given by name and shape; matrices and tables are decayed, vectors not."""
    decayed = [name for name, shape in shapes.items() if len(shape) >= 2]
    others = [name for name, shape in shapes.items() if len(shape) < 2]
    slots = []
    at = decay_stop = 0
    for name in (*decayed, *others):
        slot = Slot(name, tuple(shapes[name]), at)
        slots.append(slot)
        at = aligned(at + slot.numel)
        if len(slot.shape) >= 2:
            decay_stop = at
    return FlatLayout(tuple(slots), decay_stop, aligned(at, ALIGNMENT * D), D)
