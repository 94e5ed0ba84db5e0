"""The planner's record: what counts, what it says of the next forecast."""

from dataclasses import replace

import pytest

from llmrun.plan.forecast import (
    FORECASTS_SHOWN,
    QUANTITIES,
    Forecast,
    ForecastRecord,
    record_of,
    step_from_record,
)
from llmrun.plan.render.forecast import record_lines
from llmrun.plan.render.language import english

MACHINE = {"device": "cpu", "model": "A", "host": "one"}
WORK = {"FLOPs": 1000, "precision": "bf16", "D": 2, "threads_per_rank": 1, "gb_tok": 8}


def figures(**known: float | None) -> dict[str, float | None]:
    """Figures, unknown where not given."""
    return {**dict.fromkeys(("steps", *QUANTITIES)), **known}


def forecast(planned: float | None, measured: float | None, made: str = "2026-01-01", **changed) -> Forecast:
    """A forecast of the time of a step, in seconds; measured None: never judged."""
    known = {
        "run": "r",
        "segment": 1,
        "made": made,
        "machine": MACHINE,
        "work": WORK,
        "basis": "same_work",
        "planned": figures(steps=10, step_s=planned),
        "measured": None if measured is None else figures(steps=10, step_s=measured),
    }
    return Forecast(**known | changed)


def test_an_error_is_planned_over_measured() -> None:
    """2.2 s planned and 2 s measured is 10 % too much; what is unknown has no error."""
    assert forecast(2.2, 2.0).error("step_s") == pytest.approx(0.1)
    assert forecast(2.2, None).error("step_s") is None
    assert forecast(None, 2.0).error("step_s") is None
    assert forecast(2.2, 2.0).error("energy_J") is None


def test_an_interrupted_segment_is_judged_by_the_steps_it_did() -> None:
    """Of 10 steps planned in 20 s, 4 were done in 10 s: the plan for these was 8 s."""
    found = forecast(2.0, 2.5)
    found = replace(
        found,
        planned={**found.planned, "time_s": 20.0},
        measured=figures(steps=4, step_s=2.5, time_s=10.0),
    )

    assert found.planned_for_done("time_s") == 8.0
    assert found.error("time_s") == pytest.approx(-0.2)
    assert found.error("step_s") == pytest.approx(-0.2)


def test_the_record_holds_the_last_forecasts_of_this_machine() -> None:
    """Other devices do not count, other hosts with the same one do; the newest twelve, by time."""
    own = [forecast(1.0 + i / 100, 1.0, f"2026-01-{i + 1:02}") for i in range(15)]
    elsewhere = forecast(9.0, 1.0, machine=MACHINE | {"model": "B"})
    cluster = forecast(1.5, 1.0, "2026-02-01", machine=MACHINE | {"host": "two"})

    record = record_of([cluster, elsewhere, *reversed(own)], MACHINE, "step_s")

    assert record is not None
    assert len(record.errors) == FORECASTS_SHOWN
    assert record.errors[-1] == pytest.approx(0.5)
    assert record.errors[0] == pytest.approx(0.04)
    assert record.worst_error == pytest.approx(0.5)
    assert record_of([elsewhere], MACHINE, "step_s") is None


def test_the_record_of_one_basis() -> None:
    """An assumed MFU is judged by what assumed MFUs came to."""
    both = [forecast(1.1, 1.0), forecast(2.0, 1.0, basis="assumed_mfu")]

    assert record_of(both, MACHINE, "step_s", ["assumed_mfu"]) == ForecastRecord((pytest.approx(1.0),))


def test_an_interval_spans_what_past_errors_would_make_of_the_plan() -> None:
    """Forecasts 25 % too long and 20 % too short: 10 h will be 8 to 12.5 h; two forecasts tell nothing."""
    low, high = ForecastRecord((0.25, 0.0, -0.2)).interval(10.0)

    assert (low, high) == (pytest.approx(8.0), pytest.approx(12.5))
    assert ForecastRecord((0.25, -0.2)).interval(10.0) is None


def test_time_from_earlier_runs() -> None:
    """The same work takes what it took; other work of the same kind runs at the same FLOP/s; else nothing is known."""
    history = [forecast(None, 2.0), forecast(None, 4.0), forecast(None, 2.2)]

    assert step_from_record(history, MACHINE, WORK) == (pytest.approx(2.2), "same_work")
    twice = step_from_record(history[:1], MACHINE, WORK | {"FLOPs": 2000})
    assert twice == (pytest.approx(4.0), "similar_work")
    assert step_from_record(history, MACHINE, WORK | {"precision": "fp32"}) is None
    assert step_from_record(history, MACHINE | {"model": "B"}, WORK) is None
    assert step_from_record([forecast(1.0, None)], MACHINE, WORK) is None


def test_past_errors_make_intervals_of_time_and_memory() -> None:
    """Planned 20 and 33 % too little memory before: this plan may need as much more.  Too few forecasts say nothing."""
    records = {
        "step_s": ForecastRecord((0.5, 0.0, -0.5)),
        "time_s": ForecastRecord((0.25, 0.0, -0.2)),
        "peak_memory_bytes": ForecastRecord((-0.2, -1 / 3, -0.25)),
        "energy_J": ForecastRecord((0.0, 0.0)),
    }
    lines = record_lines(records, 1.0, 600_000_000, "runs", english)
    few = record_lines(
        {"peak_memory_bytes": ForecastRecord((-0.2, -0.3))}, None, 600_000_000, "runs", english
    )

    assert lines[:2] == [
        "step-time forecasts on this machine, last 3: median error 50.0%, worst 50.0%",
        "run-time forecasts on this machine, last 3: median error 20.0%, worst 25.0%",
    ]
    assert lines[-2:] == [
        "judging by these errors the memory of a rank will be 750 MB to 900 MB",
        "judging by these errors the time will be 48 minutes to 75 minutes",
    ]
    assert len(few) == 1
