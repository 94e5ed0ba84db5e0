"""The flat layout of parameters and its cut into shards."""

import hypothesis.strategies as st
from hypothesis import given

from llmrun.core.reduce.layout import ALIGNMENT, FlatLayout, buckets_of, flat_layout

shapes = st.lists(
    st.lists(st.integers(1, 97), min_size=1, max_size=2).map(tuple), min_size=1, max_size=12
).map(lambda sizes: {f"p{i}": size for i, size in enumerate(sizes)})


def layout_of(sizes: dict[str, tuple[int, ...]], D: int) -> FlatLayout:
    """Matrices in one section, vectors in another."""
    sections = [[n for n, size in sizes.items() if (len(size) == 2) == first] for first in (True, False)]
    return flat_layout(sizes, D, [names for names in sections if names])


@given(shapes, st.integers(1, 16))
def test_shards_cover_every_element_once(sizes, D):
    """For any shapes and D: starts are aligned, slots do not overlap, pieces cover each parameter exactly."""
    layout = layout_of(sizes, D)
    assert layout.total % (ALIGNMENT * D) == 0
    stops = [slot.start + slot.numel for slot in layout.slots]
    starts = [slot.start for slot in layout.slots]
    assert all(start % ALIGNMENT == 0 for start in starts)
    assert all(stop <= start for stop, start in zip(stops, starts[1:], strict=False))

    found: dict[str, int] = dict.fromkeys(sizes, 0)
    for rank in range(D):
        for piece in layout.share(rank).pieces:
            assert piece.start == found[piece.slot.name]
            assert layout.shard(rank).start + piece.own_start == piece.slot.start + piece.start
            found[piece.slot.name] += piece.count
    assert found == {slot.name: slot.numel for slot in layout.slots}


@given(shapes, st.integers(1, 16))
def test_where_a_parameter_lies_does_not_depend_on_D(sizes, D):
    """Only padding at the end depends on D."""
    layout, alone = layout_of(sizes, D), layout_of(sizes, 1)
    assert layout.slots == alone.slots
    assert layout.sections == alone.sections


@given(shapes, st.integers(1, 16))
def test_rows_cover_every_element_once(sizes, D):
    """For any shapes and D the shares by rows cover each parameter exactly, aligned."""
    layout = layout_of(sizes, D)
    found: dict[str, int] = dict.fromkeys(sizes, 0)
    for rank in range(D):
        share = layout.row_share(rank)
        for piece in share.pieces:
            assert piece.own_start % ALIGNMENT == 0
            assert piece.own_start + piece.count <= share.size
            assert piece.start == found[piece.slot.name]
            found[piece.slot.name] += piece.count
    assert found == {slot.name: slot.numel for slot in layout.slots}


@given(shapes, st.integers(1, 9), st.integers(1, 5000))
def test_buckets_cover_the_buffer_once(sizes, D, elements):
    """For any size of bucket: ranges from the end to the start without gap, each parameter in one, whole."""
    layout = layout_of(sizes, D)
    buckets = buckets_of(layout, elements)
    assert [b.part.stop for b in buckets] == [layout.total, *(b.part.start for b in buckets[:-1])]
    assert buckets[-1].part.start == 0
    assert len(buckets) == 1 or D > 1
    starts = {slot.name: slot for slot in layout.slots}
    for bucket in buckets:
        for name in bucket.names:
            assert bucket.part.start <= starts[name].start
            assert starts[name].start + starts[name].numel <= bucket.part.stop
    assert sorted(name for b in buckets for name in b.names) == sorted(sizes)


@given(shapes, st.integers(1, 16))
def test_sections_cover_each_share(sizes, D):
    """For any shapes and D and both cuts: sections follow each other, and hold exactly the pieces of their parameters."""
    layout = layout_of(sizes, D)
    for rank in range(D):
        for share in (layout.share(rank), layout.row_share(rank)):
            parts = [share.part(section) for section in range(len(layout.sections))]
            assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])]
            assert parts[-1].stop == share.size
            for part, section in zip(parts, layout.sections, strict=True):
                assert len(part) % ALIGNMENT == 0
                own = [piece for piece in share.pieces if piece.slot in section]
                found = share.pieces_in(part)
                assert [piece.slot for piece in found] == [piece.slot for piece in own]
                assert [p.own_start + part.start for p in found] == [p.own_start for p in own]
