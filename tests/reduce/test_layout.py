"""The flat layout of parameters and its cut into shards."""

import hypothesis.strategies as st
from hypothesis import given

from llmrun.reduce.layout import ALIGNMENT, flat_layout

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
        for piece in layout.pieces(layout.shard(rank)):
            assert piece.start == found[piece.slot.name]
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
