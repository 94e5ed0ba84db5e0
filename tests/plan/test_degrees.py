"""What each D costs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.core.batch import Batch
from llmrun.core.lanes import cost_of
from llmrun.plan.checkpoint_size import Retention, retention_of
from llmrun.plan.degrees import MOST_WORK, degree, degree_table, search_work


def batch(V: int, D: int, per_lane: int = 2) -> Batch:
    """M = V · per_lane micro-batches of 256 tokens."""
    return Batch(V * per_lane * 256, 256, 256, V, D, 10**9, 0)


def test_a_node_of_eight() -> None:
    """V = 64 on 8 ranks: every power of two is cheap; with one GPU lost, 7 ranks wait 9 % and send 1.9 sums."""
    rows = {row.D: row for row in degree_table(batch(64, 8))}

    assert [D for D, row in rows.items() if row.cheap] == [1, 2, 4, 8, 16, 32, 64]
    assert (rows[8].A, rows[8].idle_share, rows[8].sums_sent, rows[8].buffers) == (16, 0.0, 1.0, 4)
    assert rows[7].A is None
    assert rows[7].idle_share == pytest.approx(0.0857, abs=1e-4)
    assert rows[7].sums_sent == pytest.approx(1.86, abs=0.01)
    assert rows[64].buffers == 1


def test_what_takes_too_long_is_unknown_and_the_rest_is_told() -> None:
    """32,767 ranks on 65,536 lanes: waiting is exact at once, the search for the best cuts is not made."""
    row = degree(batch(65_536, 32_767), 32_767)

    assert search_work(65_536, 32_767) > MOST_WORK
    assert row.sums_sent is row.buffers is None
    assert row.idle_share == pytest.approx(1 / 3, abs=1e-4)
    assert row.A_largest == 6


@given(V=st.integers(1, 96), D=st.integers(1, 96), per_lane=st.integers(1, 3))
def test_every_row_is_what_lanes_say(V: int, D: int, per_lane: int) -> None:
    """For any V and D the table has the plan's own D once, ascending, with the figures of lanes.py."""
    D = min(D, V)
    shared = batch(V, D, per_lane)
    rows = degree_table(shared)
    cost = cost_of(V, D)
    (own,) = [row for row in rows if row.D == D]

    assert [row.D for row in rows] == sorted({row.D for row in rows})
    assert all(1 <= row.D <= V for row in rows)
    assert own.idle_share == pytest.approx(cost.idle_share)
    assert own.buffers == cost.buffers
    assert own.sums_sent == pytest.approx(sum(cost.nodes_per_rank) / D)
    assert own.A_largest == max(cost.lanes_per_rank) * per_lane


@pytest.mark.parametrize(
    ("last", "best", "every", "steps", "kept", "count"),
    [
        (1, False, None, 100, (1, 0, 0), 2),
        (2, True, None, 100, (2, 1, 0), 4),
        (2, True, 30, 100, (2, 1, 3), 7),
        (3, False, 200, 100, (3, 0, 0), 4),
        (10**8, True, None, 24, (24, 0, 0), 25),
        (20, True, 1, 24, (20, 1, 3), 25),
    ],
)
def test_the_most_checkpoints_at_once(
    last: int, best: bool, every: int | None, steps: int, kept: tuple[int, int, int], count: int
) -> None:
    """The newest, the best, the permanent ones and the one being written: no more than a run has steps to save."""
    found = retention_of(last, best, every, steps)

    assert found == Retention(*kept)
    assert found.count == count


@given(
    last=st.integers(1, 10**9),
    best=st.booleans(),
    every=st.none() | st.integers(1, 50),
    steps=st.integers(1, 10**4),
)
def test_a_run_keeps_no_more_than_it_saves(last: int, best: bool, every: int | None, steps: int) -> None:
    """For any retention: one after each step at most, and the one being written."""
    assert 2 <= retention_of(last, best, every, steps).count <= steps + 1
