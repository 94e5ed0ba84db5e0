"""The flat layout of parameters and its cut into shards."""

import hypothesis.strategies as st
from hypothesis import given

from llmrun.core.reduce.layout import ALIGNMENT, buckets_of, flat_layout, is_decayed, row_share

shapes = st.lists(
    st.lists(st.integers(1, 97), min_size=1, max_size=2).map(tuple), min_size=1, max_size=12
).map(lambda sizes: {f"p{i}": size for i, size in enumerate(sizes)})


@given(shapes, st.integers(1, 16))
def test_shards_cover_every_element_once(sizes, D):
    """For any shapes and D: starts are aligned, slots do not overlap, pieces cover each parameter exactly."""
    layout = flat_layout(sizes, D)
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
    """Only padding at the end depends on D; matrices come before vectors."""
    layout, alone = flat_layout(sizes, D), flat_layout(sizes, 1)
    assert layout.slots == alone.slots
    assert layout.decay_stop == alone.decay_stop
    assert [len(s.shape) >= 2 for s in layout.slots] == sorted(
        (len(s.shape) >= 2 for s in layout.slots), reverse=True
    )


@given(shapes, st.integers(1, 16))
def test_rows_cover_every_element_once(sizes, D):
    """For any shapes and D the shares by rows cover each parameter exactly, aligned, decayed pieces first."""
    slots = flat_layout(sizes, D).slots
    found: dict[str, int] = dict.fromkeys(sizes, 0)
    for rank in range(D):
        share = row_share(slots, D, rank)
        for piece in share.pieces:
            assert piece.own_start % ALIGNMENT == 0
            assert piece.own_start + piece.count <= share.size
            assert (piece.own_start < share.decay_stop) == is_decayed(piece.slot.shape)
            assert piece.start == found[piece.slot.name]
            found[piece.slot.name] += piece.count
    assert found == {slot.name: slot.numel for slot in slots}


@given(shapes, st.integers(1, 9), st.integers(1, 5000))
def test_buckets_cover_the_buffer_once(sizes, D, elements):
    """For any size of bucket: ranges from the end to the start without gap, each parameter in one, whole."""
    layout = flat_layout(sizes, D)
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
