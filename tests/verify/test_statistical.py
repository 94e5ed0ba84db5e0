"""The statistics of groups, against published examples, other formulas and simulation."""

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.errors import InputError
from llmrun.storage.metrics.student import t_above, t_quantile
from llmrun.verify.statistical.equivalence import (
    ComparisonRequest,
    Measurement,
    answer_of,
    compare_measures,
    parse_margin,
)
from llmrun.verify.statistical.hypothesis_tests import (
    Sample,
    compare_means,
    correction,
    hedges_g,
    holm,
    noncentral_t_below,
    power,
    seeds_needed,
    welch_df,
)


def test_welch_by_hand():
    """Means 0 and 1, sd 1 and 2, n 4 and 16: error sqrt(1/4 + 4/16), df 0.25 / (0.0625/3 + 0.0625/15) = 10."""
    a, b = Sample(4, 0.0, 1.0), Sample(16, 1.0, 2.0)
    found = compare_means(a, b, 2.0, 0.05)

    assert found.error == pytest.approx(math.sqrt(0.5))
    assert found.df == welch_df(a, b) == pytest.approx(10.0)
    assert found.p_difference == pytest.approx(2 * t_above(1 / math.sqrt(0.5), 10.0))
    assert found.p_equivalence == pytest.approx(t_above(1 / math.sqrt(0.5), 10.0))


def test_a_published_example():
    """Lakens 2017, the replication by Moery and Calin-Jageman: bounds d = ±0.43, reported t = -2.69, p = .004."""
    a, b = Sample(89, 5.22, 0.83), Sample(95, 5.25, 0.95)
    margin = 0.43 * math.sqrt((0.83**2 + 0.95**2) / 2)
    found = compare_means(a, b, margin, 0.05)

    assert (found.difference - margin) / found.error == pytest.approx(-2.69, abs=0.005)
    assert found.df == pytest.approx(181.1, abs=0.05)
    assert found.p_equivalence == pytest.approx(0.0039, abs=5e-5)


@given(
    st.integers(2, 20), st.integers(2, 20), st.floats(-3, 3), st.floats(0.1, 3), st.floats(0.1, 3),
    st.floats(0.05, 3), st.sampled_from([0.01, 0.05, 0.1]),
)  # fmt: skip
def test_the_interval_and_the_test_agree(n, m, mean, sd, other_sd, margin, alpha):
    """TOST at alpha says equivalent exactly where the interval of confidence 1 - 2·alpha lies within the margin."""
    found = compare_means(Sample(n, 0.0, sd), Sample(m, mean, other_sd), margin, alpha)
    within = -margin <= found.low and found.high <= margin

    assert within == (found.p_equivalence <= alpha) or math.isclose(found.p_equivalence, alpha, rel_tol=1e-6)


def test_groups_without_scatter():
    """Then the means are known, and so is the answer."""
    flat, near, far = Sample(3, 1.0, 0.0), Sample(3, 1.01, 0.0), Sample(3, 2.0, 0.0)

    assert compare_means(flat, near, 0.1, 0.05).p_equivalence == 0.0
    assert compare_means(flat, far, 0.1, 0.05).p_equivalence == 1.0
    assert compare_means(flat, flat, 0.1, 0.05).p_difference == 1.0
    assert hedges_g(flat, near, 0.05).g is None


def test_holm_by_hand():
    """0.01, 0.04, 0.03, 0.005 become 0.03, 0.06, 0.06, 0.02 (Holm 1979, section 3 with n = 4)."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_nothing_and_bonferroni(p_values):
    """Never smaller than the raw value, never larger than n times it, and in the same order."""
    adjusted = holm(p_values)

    for p, corrected in zip(p_values, adjusted, strict=True):
        assert p <= corrected <= min(1.0, len(p_values) * p) or math.isclose(corrected, p * len(p_values))
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    assert [adjusted[i] for i in order] == sorted(adjusted)


def noncentral_t(t, df, shift):
    """P(T <= t), by mpmath's own quadrature over the chi-square distribution."""

    def integrand(v):
        density = v ** (df / 2 - 1) * mpmath.exp(-v / 2) / (2 ** (df / 2) * mpmath.gamma(df / 2))
        return mpmath.ncdf(t * mpmath.sqrt(v / df) - shift) * density

    return float(mpmath.quad(integrand, [0, 1, 5, 10, 30, 100]))


def test_hedges_g_by_hand():
    """Where d = 1 and df = 8, J is 1 - 3/(4·8 - 1) to three digits, and the t value is 1.58 = sqrt(5·5/10)."""
    found = hedges_g(Sample(5, 0.0, 1.0), Sample(5, 1.0, 1.0), 0.05)
    J, t = correction(8), math.sqrt(2.5)

    assert pytest.approx(1 - 3 / 31, abs=1e-3) == J
    assert found.g == pytest.approx(J)
    assert noncentral_t(t, 8, found.low / J * t) == pytest.approx(0.975, abs=1e-6)
    assert noncentral_t(t, 8, found.high / J * t) == pytest.approx(0.025, abs=1e-6)


@pytest.mark.parametrize("df", [1, 2, 4, 8, 50, 5000])
@pytest.mark.parametrize("t", [-40.0, -1.3, -1e-3, 0.0, 1e-3, 1.3, 40.0])
def test_without_a_shift_the_noncentral_t_is_the_central_one(df, t):
    """Against the continued fraction of `storage.metrics.student`."""
    assert noncentral_t_below(t, df, 0.0) == pytest.approx(1 - t_above(t, df), rel=1e-7, abs=1e-11)


@pytest.mark.parametrize(
    ("t", "df", "shift"), [(1.3, 4, 0.7), (30.0, 8, 25.0), (1e-3, 15, 0.5), (-2.0, 6, -3.0)]
)
def test_the_noncentral_t_is_its_integral(t, df, shift):
    """Against a quadrature over the chi-square distribution, where ours goes over the normal one."""
    assert noncentral_t_below(t, df, shift) == pytest.approx(noncentral_t(t, df, shift), rel=1e-9)


def test_the_interval_of_a_huge_effect_is_finite():
    """Groups without much variance: far beyond the noncentralities that scipy's own distribution takes."""
    found = hedges_g(Sample(2, 0.0, 1.0), Sample(2, 1000.0, 1.0), 0.05)

    assert 0 < found.low < found.g < found.high < math.inf


def power_by_quadrature(n, margin, difference, alpha=0.05):
    """Phillips 1990, equation 3, by mpmath: over the pooled standard deviation, where ours goes over the means."""
    df, error = 2 * n - 2, mpmath.sqrt(mpmath.mpf(2) / n)
    t = mpmath.mpf(t_quantile(alpha, df))

    def integrand(x):
        room = margin / error - t * x / mpmath.sqrt(df)
        inside = mpmath.ncdf(room - difference / error) - mpmath.ncdf(-room - difference / error)
        density = x ** (df - 1) * mpmath.exp(-x * x / 2) / (2 ** (df / 2 - 1) * mpmath.gamma(df / 2))
        return inside * density

    end = min(margin / error / t * mpmath.sqrt(df), 40)
    return float(mpmath.quad(integrand, mpmath.linspace(0, end, 30)))


@pytest.mark.parametrize(
    ("n", "margin", "difference"), [(2, 3.0, 0.0), (3, 2.0, 0.5), (5, 1.0, 0.5), (8, 1.0, 0.0)]
)
def test_power_is_the_integral_of_phillips(n, margin, difference):
    """To ten digits."""
    expected = power_by_quadrature(n, margin, difference)

    assert power(n, margin, 1.0, 0.05, difference) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("n", "margin", "difference"), [(3, 3.0, 0.0), (5, 2.0, 0.5), (8, 1.5, 1.5)])
def test_power_is_what_a_simulation_gives(n, margin, difference):
    """4,000 pairs of groups, judged one by one."""
    rng = np.random.default_rng(n)
    shown = 0
    for _ in range(4000):
        a, b = (Sample.of(rng.normal(mean, 1.0, n).tolist()) for mean in (0.0, difference))
        error = math.sqrt((a.sd**2 + b.sd**2) / n)
        distance = margin - abs(b.mean - a.mean)
        shown += t_above(distance / error, 2 * n - 2) <= 0.05

    assert power(n, margin, 1.0, 0.05, difference) == pytest.approx(shown / 4000, abs=0.025)


def test_at_the_margin_power_is_alpha():
    """To call groups equivalent that differ by the margin is the false positive; with many runs it is alpha."""
    assert power(200, 1.0, 1.0, 0.05, 1.0) == pytest.approx(0.05, abs=1e-3)
    assert power(3, 1.0, 1.0, 0.05, 1.0) < 0.05


@pytest.mark.parametrize("margin", [3.0, 2.0, 1.0, 0.3])
def test_seeds_needed_is_the_smallest_number(margin):
    """One run less in each group has less power than was wanted."""
    n = seeds_needed(margin, 1.0, 0.05, 0.8)

    assert power(n, margin, 1.0, 0.05) >= 0.8
    assert n == 2 or power(n - 1, margin, 1.0, 0.05) < 0.8


def test_no_number_of_seeds_shows_what_is_not_so():
    """A difference of the margin or more, or a margin far below the scatter."""
    assert seeds_needed(1.0, 1.0, 0.05, 0.8, 1.0) is None
    assert seeds_needed(0.001, 1.0, 0.05, 0.8) is None
    assert seeds_needed(1.0, 0.0, 0.05, 0.8) == 2


@pytest.mark.parametrize(
    ("text", "nats"), [("1%", math.log(1.01)), ("0.02", 0.02), ("5 %", math.log(1.05)), ("1e-3 nats", 1e-3)]
)
def test_margins(text, nats):
    """Per cent of perplexity, or nats."""
    assert parse_margin(text).nats == pytest.approx(nats, rel=1e-12)


@pytest.mark.parametrize("text", ["0", "-1%", "", "two", "1%%", "inf", "nan", "20"])
def test_no_margins(text):
    """Anything else is refused with an example."""
    with pytest.raises(InputError, match="--margin must be"):
        parse_margin(text)


def answer(differences, margin=0.5, n=10, sd=0.1):
    """The verdict over measures with these differences."""
    found = [
        Measurement(str(i), 1, (Sample(n, 0.0, sd), Sample(n, difference, sd)))
        for i, difference in enumerate(differences)
    ]
    return answer_of(compare_measures(found, ComparisonRequest(margin, 0.05, 0.8)))


def test_verdicts():
    """All within, one far away, one too near the margin to tell; a difference that does not matter is equivalent."""
    assert answer([0.0, 0.0]) == "equivalent"
    assert answer([0.3, 0.0]) == "equivalent"
    assert answer([0.0, 2.0]) == "different"
    assert answer([0.0, 0.03], margin=0.05) == "not_shown"


def test_false_findings_are_rare_and_real_ones_found():
    """1,000 draws of five runs a side and two correlated measures; the margin is three standard deviations."""
    rng = np.random.default_rng(0)
    counts = {}
    for difference in (0.0, 3.0):
        answers = []
        for _ in range(1000):
            shared = rng.standard_normal((2, 5))
            found = []
            for name in ("loss_smooth", "val_ppl"):
                a, b = 0.95 * shared + 0.31 * rng.standard_normal((2, 5))
                found.append(
                    Measurement(name, 1, (Sample.of(a.tolist()), Sample.of((b + difference).tolist())))
                )
            answers.append(answer_of(compare_measures(found, ComparisonRequest(3.0, 0.05, 0.8))))
        counts[difference] = answers

    assert counts[3.0].count("equivalent") <= 65
    assert counts[3.0].count("different") >= 900
    assert counts[0.0].count("different") <= 65
    assert counts[0.0].count("equivalent") >= 950
