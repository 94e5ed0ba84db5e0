"""The flat layout of all parameters: slots, the share of each rank, and the buckets that are exchanged together."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod

ALIGNMENT = 64


def aligned(n_elements: int, unit: int = ALIGNMENT) -> int:
    """`n_elements` rounded up to a multiple of `unit`."""
    return -(-n_elements // unit) * unit


@dataclass(frozen=True)
class Slot:
    """The place of one parameter: elements [start, start + numel) of the flat buffer.

    is_frozen: whether training does not change it: it has no gradient and no weight decay.
    """

    name: str
    shape: tuple[int, ...]
    start: int
    is_frozen: bool = False

    @property
    def is_decayed(self) -> bool:
        """Whether the parameter has weight decay."""
        return is_decayed(self.shape) and not self.is_frozen

    @property
    def numel(self) -> int:
        """Elements of the parameter, without padding."""
        return prod(self.shape)


@dataclass(frozen=True)
class SharePiece:
    """The part of one parameter that a rank owns.

    start:     first element in the flattened parameter.
    own_start: the same element in the rank's own buffer.
    count:     elements.
    """

    slot: Slot
    start: int
    own_start: int
    count: int


@dataclass(frozen=True)
class Share:
    """What one rank owns of all parameters, in a buffer of `size` elements of its own.

    Pieces are ascending, without padding and without empty ones; each starts at a multiple of 64.
    decay_stop: elements before it belong to parameters with weight decay.
    """

    pieces: tuple[SharePiece, ...]
    size: int
    decay_stop: int


@dataclass(frozen=True)
class FlatLayout:
    """The flat buffer of a model cut into D equal shards; padding is zero and stays zero."""

    slots: tuple[Slot, ...]
    decay_stop: int
    total: int
    D: int

    @property
    def shard_size(self) -> int:
        """Elements of each shard, a multiple of 64."""
        return self.total // self.D

    def shard(self, rank: int) -> range:
        """The elements of the flat buffer that `rank` owns."""
        return range(rank * self.shard_size, (rank + 1) * self.shard_size)

    def share(self, rank: int) -> Share:
        """The share of `rank`: its shard, which may begin and end within a parameter."""
        shard = self.shard(rank)
        pieces = []
        for slot in self.slots:
            first, last = max(slot.start, shard.start), min(slot.start + slot.numel, shard.stop)
            if first < last:
                pieces.append(SharePiece(slot, first - slot.start, first - shard.start, last - first))
        cut = min(max(self.decay_stop, shard.start), shard.stop) - shard.start
        return Share(tuple(pieces), self.shard_size, cut)


def flat_layout(
    shapes: Mapping[str, Sequence[int]], D: int, frozen: Collection[str] = frozenset()
) -> FlatLayout:
    """The layout of parameters given by name and shape.  frozen: names of those that training does not change."""
    slots = []
    at = decay_stop = 0
    for name in decayed_first(shapes, frozen):
        slot = Slot(name, tuple(shapes[name]), at, name in frozen)
        slots.append(slot)
        at = aligned(at + slot.numel)
        if slot.is_decayed:
            decay_stop = at
    return FlatLayout(tuple(slots), decay_stop, aligned(at, ALIGNMENT * D), D)


def row_share(slots: Sequence[Slot], D: int, rank: int) -> Share:
    """The share of `rank` if each parameter is cut by rows, as FSDP2 does: ceil(rows / D) for each rank."""
    pieces = []
    at = decay_stop = 0
    for slot in slots:
        rows = -(-slot.shape[0] // D)
        first, last = min(rank * rows, slot.shape[0]), min((rank + 1) * rows, slot.shape[0])
        row_size = slot.numel // slot.shape[0]
        if first < last:
            pieces.append(SharePiece(slot, first * row_size, at, (last - first) * row_size))
            at = aligned(at + pieces[-1].count)
        if slot.is_decayed:
            decay_stop = at
    return Share(tuple(pieces), at, decay_stop)


def is_decayed(shape: Sequence[int]) -> bool:
    """Whether a parameter of this shape has weight decay: matrices and tables, not norms and biases."""
    return len(shape) >= 2


def decayed_first(shapes: Mapping[str, Sequence[int]], frozen: Collection[str]) -> list[str]:
    """Names in flat order: parameters with weight decay first, otherwise as registered."""
    return sorted(shapes, key=lambda name: name in frozen or not is_decayed(shapes[name]))


BUCKET_ELEMENTS = 6 * 1024 * 1024
"""24 MiB of float32, about DDP's 25 MB: large enough for the network, small enough to start early."""


@dataclass(frozen=True)
class Bucket:
    """A range of the flat buffer and the parameters that lie in it, whole."""

    part: slice
    names: tuple[str, ...]


def buckets_of(layout: FlatLayout, elements: int) -> list[Bucket]:
    """The flat buffer cut between parameters into buckets of at least `elements`, last parameters first.

    With D = 1 there is nothing to exchange and one bucket.  The cut is operational: each element is added in the same
    tree whatever bucket it is in.
    """
    if layout.D == 1:
        elements = layout.total
    found: list[Bucket] = []
    stop, names = layout.total, []
    for slot in reversed(layout.slots):
        names.append(slot.name)
        if stop - slot.start >= elements or slot.start == 0:
            found.append(Bucket(slice(slot.start, stop), tuple(reversed(names))))
            stop, names = slot.start, []
    return found
