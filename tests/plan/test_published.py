"""Figures that papers publish, each met by llmrun's plan functions within its tolerance."""

import pytest

from plan.published import NOT_COMPUTED, Expected, cases, expected_figures
from plan.published_metrics import METRICS, computed
from plan.published_page import PAGE, REASONS, page

FIGURES = list(expected_figures())
COMPUTED = [figure for figure in FIGURES if figure.key not in NOT_COMPUTED]


def named(figures: list[Expected]) -> list[object]:
    """The figures as parameters, named by case and metric."""
    return [pytest.param(figure, id=":".join(figure.key)) for figure in figures]


def test_no_case_is_dropped() -> None:
    """All 84 runs and 252 figures are here, each is asserted, told with a reason, or listed as not computable."""
    told = [figure for figure in COMPUTED if not figure.asserted]

    assert (len(cases()), len(FIGURES)) == (84, 252)
    assert len({figure.key for figure in FIGURES}) == 252
    assert {figure.metric for figure in FIGURES} - {metric for _, metric in NOT_COMPUTED} == set(METRICS)
    assert {figure.metric for figure in told} == set(REASONS)
    assert all(figure.key in {f.key for f in FIGURES} for figure in COMPUTED)


@pytest.mark.parametrize("figure", named([figure for figure in COMPUTED if figure.asserted]))
def test_a_published_figure_is_met(figure: Expected) -> None:
    """What the plan's functions give lies within the tolerance of what was published."""
    value = computed(figure)

    assert abs(value - figure.value) <= figure.tolerance, (
        f"{figure.case['source']}: {figure.formula} gives {value:,} {figure.unit}, "
        f"published {figure.value:,} ± {figure.tolerance:g}"
    )


@pytest.mark.parametrize("figure", named([figure for figure in COMPUTED if not figure.asserted]))
def test_a_figure_that_is_only_told_is_near(figure: Expected) -> None:
    """What is computed but defined otherwise than the source's is at most 5 % from it."""
    assert computed(figure) == pytest.approx(figure.value, rel=0.05)


def test_the_page_is_fresh() -> None:
    """docs/planning-cases.md is what the cases give; else: PYTHONPATH=.:tests python -m plan.published_page."""
    assert PAGE.read_text(encoding="utf-8") == page()
