"""Student's t against mpmath, which computes it to forty digits by other means, and against printed tables."""

import math

import mpmath
import pytest

from llmrun.storage.metrics.student import as_normal, incomplete_beta, t_above, t_quantile

DFS = (1, 2, 3.7, 4, 8, 30, 199.5, 1e4)
TS = (-20.0, -3.0, -0.1, 0.0, 1e-3, 0.5, 1.0, 2.0, 5.0, 20.0)


def oracle(t: float, df: float) -> float:
    """P(T > t) by mpmath."""
    with mpmath.workdps(40):
        x = mpmath.mpf(df) / (df + mpmath.mpf(t) ** 2)
        tail = mpmath.betainc(mpmath.mpf(df) / 2, mpmath.mpf(1) / 2, 0, x, regularized=True) / 2
        return float(tail if t >= 0 else 1 - tail)


@pytest.mark.parametrize("df", DFS)
@pytest.mark.parametrize("t", TS)
def test_tail(t, df):
    """Right to 9 digits, also far out, where the tail is 1e-80."""
    assert t_above(t, df) == pytest.approx(oracle(t, df), rel=1e-9, abs=1e-300)


@pytest.mark.parametrize(
    ("above", "df", "printed"),
    [(0.025, 4, 2.776), (0.05, 8, 1.860), (0.025, 1, 12.706), (0.005, 10, 3.169), (0.05, 120, 1.658)],
)
def test_printed_quantiles(above, df, printed):
    """The table at the back of every textbook."""
    assert t_quantile(above, df) == pytest.approx(printed, abs=6e-4)


@pytest.mark.parametrize("df", DFS)
@pytest.mark.parametrize("above", [1e-9, 0.001, 0.2, 0.5, 0.9])
def test_quantile_undoes_the_tail(above, df):
    """P(T > quantile) is what was asked for."""
    assert t_above(t_quantile(above, df), df) == pytest.approx(above, rel=1e-9)


def test_beta_at_its_ends_and_turned_around():
    """I_0 = 0, I_1 = 1, and I_x(a, b) = 1 - I_{1-x}(b, a)."""
    assert (incomplete_beta(0.0, 2.0, 3.0), incomplete_beta(1.0, 2.0, 3.0)) == (0.0, 1.0)
    assert incomplete_beta(0.3, 2.0, 5.0) == pytest.approx(1 - incomplete_beta(0.7, 5.0, 2.0), rel=1e-13)


def test_a_t_value_as_a_normal_one():
    """The same tail: 2.776 with 4 degrees of freedom is 1.96; the sign stays; never infinite."""
    assert as_normal(2.7764451, 4) == pytest.approx(1.959964, abs=1e-5)
    assert as_normal(-2.7764451, 4) == -as_normal(2.7764451, 4)
    assert as_normal(1.5, 1e7) == pytest.approx(1.5, abs=1e-5)
    assert as_normal(math.inf, 3) == 38.0
    assert as_normal(0.0, 5) == 0.0
