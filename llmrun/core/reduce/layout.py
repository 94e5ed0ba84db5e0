"""The flat layout of all parameters: slots, the share of each rank, and the buckets that are exchanged together."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
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
    stops: the end of each section's elements in the buffer; sections follow each other, and one may be empty here.
    """

    pieces: tuple[SharePiece, ...]
    size: int
    stops: tuple[int, ...]

    def part(self, section: int) -> range:
        """The elements of one section, a multiple of 64."""
        return range(self.stops[section - 1] if section else 0, self.stops[section])

    def pieces_in(self, part: range) -> tuple[SharePiece, ...]:
        """The pieces in a range that sections begin and end, as pieces of a buffer that holds this range alone."""
        return tuple(
            replace(piece, own_start=piece.own_start - part.start)
            for piece in self.pieces
            if piece.own_start in part
        )


@dataclass(frozen=True)
class FlatLayout:
    """The flat buffer of a model cut into D equal shards; padding is zero and stays zero.

    sections: parameters that are updated alike, section after section; each begins at a multiple of 64.
    """

    sections: tuple[tuple[Slot, ...], ...]
    total: int
    D: int

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """All parameters in flat order."""
        return tuple(slot for section in self.sections for slot in section)

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
        ends = [aligned(section[-1].start + section[-1].numel) for section in self.sections]
        stops = [min(max(end, shard.start), shard.stop) - shard.start for end in ends]
        return Share(tuple(pieces), self.shard_size, (*stops[:-1], self.shard_size))

    def row_share(self, rank: int) -> Share:
        """The share of `rank` if each parameter is cut by rows, as FSDP2 does: ceil(rows / D) for each rank."""
        pieces, stops, at = [], [], 0
        for section in self.sections:
            for slot in section:
                rows = -(-slot.shape[0] // self.D)
                first, last = min(rank * rows, slot.shape[0]), min((rank + 1) * rows, slot.shape[0])
                row_size = slot.numel // slot.shape[0]
                if first < last:
                    pieces.append(SharePiece(slot, first * row_size, at, (last - first) * row_size))
                    at = aligned(at + pieces[-1].count)
            stops.append(at)
        return Share(tuple(pieces), at, tuple(stops))


def flat_layout(
    shapes: Mapping[str, Sequence[int]],
    D: int,
    sections: Sequence[Sequence[str]],
    frozen: Collection[str] = frozenset(),
) -> FlatLayout:
    """The layout of parameters given by name and shape.

    sections: names of the parameters of each section, in order; none is empty, and each name is in one of them.
    frozen:   names of the parameters that training does not change.
    """
    found, at = [], 0
    for names in sections:
        slots = []
        for name in names:
            slots.append(Slot(name, tuple(shapes[name]), at, name in frozen))
            at = aligned(at + slots[-1].numel)
        found.append(tuple(slots))
    layout = FlatLayout(tuple(found), aligned(at, ALIGNMENT * D), D)
    assert {slot.name for slot in layout.slots} == shapes.keys()
    assert len(layout.slots) == len(shapes)
    return layout


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
