"""Ranges of the flat buffer that travel together, in the order in which a backward pass finishes them."""

from dataclasses import dataclass

from llmrun.reduce.layout import FlatLayout

BUCKET_ELEMENTS = 6 * 1024 * 1024
"""24 MiB of float32, about DDP's 25 MB: large enough for the network, small enough to start early."""


@dataclass(frozen=True)
class Bucket:
    """One range.  names: the parameters that lie in it, whole."""

    part: slice
    names: tuple[str, ...]


def buckets_of(layout: FlatLayout, elements: int) -> list[Bucket]:
    """The flat buffer cut between parameters into buckets of at least `elements`, last parameters first.

    With D = 1 nothing travels and there is one bucket.  Which buckets there are is operational: each element is
    added in the same tree whatever bucket it is in.
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
