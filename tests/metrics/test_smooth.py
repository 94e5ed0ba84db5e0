import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.storage.metrics.throughput import MovingAverage

losses = st.lists(st.floats(0.0, 20.0), min_size=1, max_size=60)


@given(losses)
def test_average_is_the_weighted_mean(values: list[float]) -> None:
    """After any values the average is Σ decay^(n-i)·x_i / Σ decay^(n-i)."""
    average = MovingAverage(decay=0.9)
    for value in values:
        result = average.add(value)

    weights = [0.9 ** (len(values) - 1 - i) for i in range(len(values))]
    expected = math.fsum(w * x for w, x in zip(weights, values, strict=True)) / math.fsum(weights)
    assert math.isclose(result, expected, rel_tol=1e-12, abs_tol=1e-12)


@given(losses, st.integers(0, 60))
def test_interrupted_average_has_equal_bits(values: list[float], cut: int) -> None:
    """Saved as JSON after any step and restored, the average goes on with the same bits."""
    straight, before, after = MovingAverage(), MovingAverage(), MovingAverage(decay=0.5)
    expected = [straight.add(value) for value in values]
    first = [before.add(value) for value in values[:cut]]
    after.restore(json.loads(json.dumps(before.state())))
    second = [after.add(value) for value in values[cut:]]

    assert [value.hex() for value in first + second] == [value.hex() for value in expected]


def test_restore_refuses_another_state() -> None:
    """A state that lacks a number is an error, not a fresh start."""
    with pytest.raises(KeyError):
        MovingAverage().restore({"decay": 0.98})
