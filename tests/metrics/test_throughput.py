import math

from hypothesis import given
from hypothesis import strategies as st

from llmrun.storage.metrics.throughput import Throughput


def test_rates_of_a_steady_run() -> None:
    """4 ranks, 1000 tokens in 0.5 s at 6 FLOPs a token of a peak of 30 FLOP/s: all by hand."""
    throughput = Throughput(D=4, flops_per_token=6, peak_flops_per_gpu=30_000.0)
    for step in range(5):
        rates = throughput.step(step, step + 0.5, 1000)

    assert rates.total_tokens_per_second == 2000.0
    assert rates.tokens_per_second_per_gpu == 500.0
    assert rates.mfu == 2000.0 * 6 / (4 * 30_000.0)


def test_mfu_is_none_where_the_peak_is_unknown() -> None:
    """An unknown peak gives no MFU rather than 0."""
    rates = Throughput(D=1, flops_per_token=6, peak_flops_per_gpu=None).step(0.0, 1.0, 10)

    assert rates.mfu is None
    assert rates.total_tokens_per_second == 10.0


def test_first_step_counts_only_until_the_second() -> None:
    """A slow first step does not drag the rates of the others down."""
    throughput = Throughput(D=1, flops_per_token=1, peak_flops_per_gpu=None)

    assert throughput.step(0.0, 100.0, 100).total_tokens_per_second == 1.0
    assert throughput.step(100.0, 101.0, 100).total_tokens_per_second == 100.0
    assert throughput.step(101.0, 104.0, 100).total_tokens_per_second == 50.0


@given(st.lists(st.floats(0.01, 10.0), min_size=2, max_size=30), st.integers(1, 5))
def test_rates_are_those_of_the_window(durations: list[float], window_steps: int) -> None:
    """At any durations the rate is that of the last steps, pauses between steps left out."""
    throughput = Throughput(1, 1, None, window_steps=window_steps)
    now = 0.0
    for seconds in durations:
        rates = throughput.step(now, now + seconds, 7)
        now += seconds + 3600.0

    window = durations[1:][-window_steps:]
    expected = 7 * len(window) / math.fsum(window)
    # A clock reading of some hours keeps about 1e-11 s.
    assert math.isclose(rates.total_tokens_per_second, expected, rel_tol=1e-6)


def test_clock_that_stands_still() -> None:
    """Two equal readings give a large rate, not a division by zero."""
    assert Throughput(1, 1, None).step(5.0, 5.0, 1).total_tokens_per_second >= 1e8
