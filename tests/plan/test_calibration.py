"""From timed steps to a run's time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.core.batch import Batch
from llmrun.core.lanes import cost_of
from llmrun.plan.forecast import BenchmarkBatch, Timed, benchmark_batch, estimate, spread_of


def make_batch(D: int = 2, V: int = 8, M: int = 16) -> Batch:
    """A batch of 16 micro-batches of 64 tokens, 100 steps."""
    return Batch(M * 64, 64, 32, V, D, 100 * M * 64 + 5, 0)


def test_a_run_takes_its_steps_times_the_median_step() -> None:
    """100 steps of 2 s: 200 s, 512 tokens/s, and the energy of the devices with it."""
    timed = Timed((2.0, 2.0, 5.0), D=2, micro_batches=8, energy_J=900.0, where="X")

    found = estimate(timed, make_batch(), FLOPs_per_token=1000, peak_FLOPs=1e6)

    assert found.step_s == 2.0
    assert found.time_hours * 3600 == pytest.approx(200.0)
    assert found.GPU_hours == pytest.approx(2 * found.time_hours)
    assert found.tokens_per_second == pytest.approx(512.0)
    assert found.tokens_per_second_per_gpu == pytest.approx(256.0)
    assert found.mfu == pytest.approx(512 * 1000 / 2e6)
    assert found.energy_kWh == pytest.approx(900 / 9 * 200 / 3.6e6)


def test_what_was_not_measured_is_unknown() -> None:
    """Without counters no energy, without a peak no MFU: never 0."""
    found = estimate(Timed((1.0,), 1, 1, None, "X"), make_batch(D=1), 1000, None)

    assert found.energy_kWh is None
    assert found.mfu is None
    assert found.spread == 0.0


@given(V=st.integers(1, 40), D=st.integers(1, 40), per_lane=st.integers(1, 3), devices=st.integers(1, 8))
def test_a_trial_gives_each_rank_the_work_of_the_run(V: int, D: int, per_lane: int, devices: int) -> None:
    """For any D up to V: on fewer devices, the busiest rank computes as many micro-batches as in the run."""
    if D > V:
        return
    batch = make_batch(D, V, V * per_lane)
    size = benchmark_batch(batch, devices)

    assert min(D, devices) == size.D
    if devices >= D:
        assert size == BenchmarkBatch(batch.gb_tok, V, D)
    here = max(cost_of(size.V, size.D).lanes_per_rank) * (size.gb_tok // 64 // size.V)
    assert here == max(cost_of(V, D).lanes_per_rank) * per_lane


def test_spread_is_half_the_middle_half() -> None:
    """Of 1, 2, 3, 4, 5 the quartiles are 2 and 4: half their distance over 3."""
    assert spread_of([5, 1, 3, 2, 4]) == pytest.approx(1 / 3)
