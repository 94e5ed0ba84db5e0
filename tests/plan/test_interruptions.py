"""When to save, and what interruptions cost."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.plan.checkpoint_size import checkpoint_size
from llmrun.plan.interruptions import (
    FACTORS,
    Saving,
    configured_interval_s,
    daly_interval_s,
    device_MTBF_of,
    goodput,
    run_MTBF_s,
    saving_of,
    young_interval_s,
)
from plan.published_page import llama3_saving

SECONDS = st.floats(1e-3, 1e8)


def saving(GBps: float = 2.0, device_MTBF_hours: float = 50_700.0, run_hours: float | None = 100.0) -> Saving:
    """13B parameters on 64 devices."""
    return saving_of(
        checkpoint_size(13 * 10**9, 64),
        64,
        GBps=GBps,
        device_MTBF_hours=device_MTBF_hours,
        restart_minutes=10.0,
        configured_s=4 * 3600.0,
        run_hours=run_hours,
    )


def test_llama3_405B() -> None:
    """419 interruptions in 54 days on 16,384 devices: one in 3.1 hours, and above 90 % at 2 TB/s as reported."""
    found = llama3_saving(TBps=2.0, restart_minutes=10)

    assert found.MTBF_s / 3600 == pytest.approx(54 * 24 / 419)
    assert found.delta_s == pytest.approx(2.435, abs=1e-3)
    assert found.young.interval_s == pytest.approx(math.sqrt(2 * found.delta_s * found.MTBF_s))
    assert 0.92 < found.daly.goodput < 0.94
    assert found.interruptions is not None
    # Longer by what is lost, the run sees more than the paper's 419 in 54 days of wall time.
    assert found.interruptions == pytest.approx(419 / found.daly.goodput)


def test_the_default_is_llama3s_rate() -> None:
    """50,700 hours between interruptions of one device is what the paper's figures give, rounded."""
    assert device_MTBF_of(419, 16_384, 54) == pytest.approx(50_677, abs=1)


def test_the_13B_example() -> None:
    """156 GB at 2 GB/s take 78 s; 64 devices are interrupted every 33 days; save every 5.9 hours."""
    found = saving()

    assert found.delta_s == pytest.approx(78.0)
    assert found.MTBF_s / 86_400 == pytest.approx(33.0, abs=0.01)
    assert found.young.interval_s / 3600 == pytest.approx(5.86, abs=0.01)
    assert found.configured is not None
    assert found.wall_hours == pytest.approx(100.0 / found.configured.goodput)


def test_goodput_by_hand() -> None:
    """Of 100 s between saves of 10 s with no interruption in sight, 10 in 11 are training."""
    assert goodput(100.0, 10.0, 1e12, 60.0) == pytest.approx(100 / 110, rel=1e-6)


def test_daly_by_hand() -> None:
    """A save of a minute, an interruption an hour: 657.27·(1 + 0.09129/3 + 0.00833/9) - 60; beyond 2·M it is M."""
    assert daly_interval_s(60.0, 3600.0) == pytest.approx(617.88, abs=0.01)
    assert daly_interval_s(7200.0, 3600.0) == 3600.0


def test_a_run_that_never_gets_to_its_next_save() -> None:
    """Where an interval is thousands of times the MTBF, goodput is 0 and the time unknown, never a traceback."""
    found = saving(GBps=1e-3, device_MTBF_hours=1.0)

    assert found.daly.goodput == 0.0
    assert found.configured is not None
    assert found.configured.goodput == 0.0
    assert found.wall_hours is found.interruptions is None


@given(delta=SECONDS, ratio=st.floats(10, 1e6), R=st.floats(0, 1e6))
def test_daly_is_the_best_interval(delta: float, ratio: float, R: float) -> None:
    """Where a save costs at most a tenth of any MTBF, no interval of the table beats Daly's by more than 1 %."""
    M = ratio * delta
    best = daly_interval_s(delta, M)
    shares = [goodput(factor * best, delta, M, R) for factor in FACTORS]

    assert max(shares) <= goodput(best, delta, M, R) * 1.01
    assert all(0.0 <= share <= 1.0 for share in shares)


@given(delta=SECONDS, M=SECONDS, R=st.floats(0, 1e6), interval=SECONDS)
def test_goodput_falls_with_every_cost(delta: float, M: float, R: float, interval: float) -> None:
    """A longer save, a longer restart or more frequent interruptions never raise goodput."""
    here = goodput(interval, delta, M, R)

    assert 0.0 <= here <= 1.0
    assert goodput(interval, 2 * delta, M, R) <= here
    assert goodput(interval, delta, M, 2 * R) <= here
    assert goodput(interval, delta, M / 2, R) <= here * (1 + 1e-9)


@given(delta=SECONDS, M=SECONDS)
def test_young_and_daly_agree_where_saves_are_cheap(delta: float, M: float) -> None:
    """Both are positive and finite; where a save costs a thousandth of the MTBF they differ by at most 3 %."""
    young, daly = young_interval_s(delta, M), daly_interval_s(delta, M)

    assert 0 < daly < math.inf
    if delta < M / 1000:
        assert daly == pytest.approx(young, rel=0.03)


@given(hours=st.floats(1, 1e9), D=st.integers(1, 10**6))
def test_more_devices_fail_more_often(hours: float, D: int) -> None:
    """D devices are interrupted D times as often as one."""
    assert run_MTBF_s(hours, D) * D == pytest.approx(hours * 3600)


@pytest.mark.parametrize(
    ("every_steps", "every_minutes", "step_seconds", "seconds"),
    [
        (None, 240, None, 14_400.0),
        (100, None, 3.0, 300.0),
        (100, 4, 3.0, 240.0),
        (100, 240, None, None),
        (None, None, 3.0, None),
    ],
)
def test_the_configured_interval(
    every_steps: int | None, every_minutes: int | None, step_seconds: float | None, seconds: float | None
) -> None:
    """The earlier of steps and minutes; unknown where a step's time is."""
    assert configured_interval_s(every_steps, every_minutes, step_seconds) == seconds
