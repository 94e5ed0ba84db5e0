"""How far two values lie apart."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.storage.ledger.distance import Distance, growth
from llmrun.storage.ledger.writer import LedgerReader

finite = st.floats(allow_nan=False, allow_infinity=False)


@pytest.mark.parametrize(
    ("a", "b", "ulps"),
    [
        (1.0, 1.0, 0),
        (1.0, math.nextafter(1.0, 2.0), 1),
        (0.0, -0.0, 1),
        (5e-324, -5e-324, 3),
        (1.0, 2.0, 2**52),
        (-1.0, -2.0, 2**52),
    ],
)
def test_ulps_count_the_doubles_between(a, b, ulps):
    """Across zero too, where -0.0 and 0.0 are neighbours."""
    assert Distance(1, a, b).ulps == Distance(1, b, a).ulps == ulps


@given(finite)
def test_the_next_double_is_one_ulp_away(value):
    """At every finite value."""
    after = math.nextafter(value, math.inf)
    if math.isfinite(after) and value != 0 and after != 0:
        assert Distance(1, value, after).ulps == 1


def test_absolute_and_relative():
    """Relative to the larger of the two; 0 for two zeros."""
    row = Distance(7, 4.0, -1.0)

    assert row.as_json() == {
        "step": 7,
        "a": 4.0,
        "b": -1.0,
        "absolute": 5.0,
        "relative": 1.25,
        "ulps": row.ulps,
    }
    assert Distance(7, 0.0, -0.0).relative == 0.0


def test_growth_is_told_at_powers_of_ten(ledgers, tmp_path):
    """At the first step, 1, 10, 100 steps later, and at the last step of both."""
    a = LedgerReader(ledgers.write(tmp_path / "a.bin", 150))
    b = LedgerReader(
        ledgers.write(tmp_path / "b.bin", 150, lambda r: r if r.step < 30 else replace(r, loss=9.0))
    )
    rows = growth(a, b, "loss", 30, 150)

    assert [row.step for row in rows] == [30, 31, 40, 130, 150]
    assert [(row.a, row.b) for row in rows] == [(a.record(row.step).loss, 9.0) for row in rows]
    assert growth(a, b, "loss", 0, 0) == []
