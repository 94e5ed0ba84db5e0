"""What each D costs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.checkpoint.space import peak_count
from llmrun.config.batch import Batch
from llmrun.lanes import cost_of
from llmrun.plan.checkpoint_size import retention_of
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


@given(
    last=st.integers(1, 9),
    best=st.booleans(),
    every=st.none() | st.integers(1, 50),
    steps=st.integers(1, 10**4),
)
def test_retention_is_that_of_the_writer(last: int, best: bool, every: int | None, steps: int) -> None:
    """The plan counts as many checkpoints as the check for free disk before a run."""
    assert retention_of(last, best, every, steps).count == peak_count(last, best, every, steps)
