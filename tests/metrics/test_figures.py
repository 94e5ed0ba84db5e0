import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.cli.live_view import BARS, rate, sparkline


@pytest.mark.parametrize(("value", "text"), [(1_234_567.8, "1,234,568"), (100.0, "100"), (0.01234, "0.0123")])
def test_rate(value: float, text: str) -> None:
    """Separators above a thousand, three digits below."""
    assert rate(value) == text


def test_sparkline_falls_with_the_loss() -> None:
    """Eight falling values are the eight bars from the highest to the lowest."""
    assert sparkline([8, 7, 6, 5, 4, 3, 2, 1], 8) == "█▇▆▅▄▃▂▁"
    assert sparkline([4, 4, 2, 2], 2) == "█▁"
    assert sparkline([], 8) == ""
    assert sparkline([math.nan, math.inf], 8) == ""
    assert sparkline([3.0, 3.0], 8) == "▁▁"


@given(st.lists(st.floats(-1e30, 1e30)), st.integers(0, 40))
def test_sparkline_of_anything(values: list[float], width: int) -> None:
    """At most `width` bars, whatever the values."""
    line = sparkline(values, width)

    assert len(line) == min(width, len(values))
    assert set(line) <= set(BARS)
