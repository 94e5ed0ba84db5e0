"""Forecasts of real runs, compared with what the runs took."""

import json

import pytest

from llmrun.launch.forecasting import directory_bytes
from llmrun.plan.forecast import QUANTITIES, record_of
from llmrun.run import forecast as module
from llmrun.run.forecast import forecasts_below, read_forecasts
from llmrun.storage.durable import Disk
from llmrun.storage.metrics.jsonl import rows
from llmrun.storage.metrics.names import CHECKPOINT_STALL_SECONDS as STALL
from llmrun.storage.metrics.names import STEP_SECONDS
from warm.pool import PoolBackend, dying

MEASURED_ON_A_CPU = set(QUANTITIES) - {"energy_J"}


def test_a_finished_run_has_planned_and_measured_values(driver, pool) -> None:
    """Time with evaluation and saving, tokens/s, peak memory and checkpoint bytes are measured; a first run here has no forecast of time."""
    ended = driver.train(pool, "first")
    (found,) = read_forecasts(driver.run("first"))

    assert found.basis is None
    assert found.planned["step_s"] is None
    assert found.planned["steps"] == ended.step == 16
    assert found.measured is not None
    assert found.measured["steps"] == 16
    assert {name for name in QUANTITIES if found.measured[name] is not None} >= MEASURED_ON_A_CPU
    written = rows(driver.run("first").metrics_file)
    assert found.measured["time_s"] > sum(row[STEP_SECONDS] + row.get(STALL, 0.0) for row in written)
    newest = driver.run("first").checkpoints / "step-00000016"
    assert found.measured["checkpoint_bytes"] == directory_bytes(newest)
    assert abs(found.error("checkpoint_bytes")) < 0.01


def test_the_next_run_is_forecast_from_the_last(driver, pool) -> None:
    """The same work is planned to take what it took before, and the record has the error of that forecast."""
    driver.train(pool, "first", until=6)
    driver.train(pool, "second", until=6)
    (first,), (second,) = (read_forecasts(driver.run(name)) for name in ("first", "second"))

    assert second.basis == "same_work"
    assert second.planned["step_s"] == first.measured["step_s"]
    record = record_of(forecasts_below(driver.directory / "runs"), second.machine, "step_s")
    assert record is not None
    assert record.errors == (second.error("step_s"),)


def test_every_segment_has_its_own_forecast(driver, pool, server) -> None:
    """A segment that was stopped early counts the steps it did; killed workers leave their steps' times only."""
    driver.train(pool, "run", until=5)
    driver.resume(dying(server, 8), "run")
    driver.resume(pool, "run", D=2)
    first, killed, last = read_forecasts(driver.run("run"))

    assert first.measured["steps"] == 5
    assert killed.measured["steps"] == 3
    assert killed.measured["step_s"] > 0
    assert killed.measured["time_s"] is None
    assert killed.measured["peak_memory_bytes"] is None
    assert killed.measured["checkpoint_bytes"] is None
    assert (last.planned["steps"], last.measured["steps"]) == (11, 11)
    assert last.work["D"] == 2
    assert last.measured["peak_memory_bytes"] > 0


def test_a_killed_launcher_leaves_a_forecast_without_measured_values(driver, pool, monkeypatch) -> None:
    """What was not measured stays null, and the next segment is appended."""
    monkeypatch.setattr("llmrun.launch.forecasting.ForecastRecorder.at_end", lambda _self, _record: [])
    driver.train(pool, "run", until=5)
    monkeypatch.undo()
    monkeypatch.chdir(driver.directory)
    driver.resume(pool, "run", until=8)
    unmeasured, measured = read_forecasts(driver.run("run"))

    assert unmeasured.measured is None
    assert unmeasured.error("peak_memory_bytes") is None
    assert measured.measured["steps"] == 3


def test_a_full_disk_costs_the_forecast_and_not_the_run(driver, pool, monkeypatch) -> None:
    """If forecast.json cannot be written the run continues, with warnings at its end."""

    def refuse(path, value, disk: Disk | None = None) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(module, "replace_json", refuse)
    ended = driver.train(pool, "run", until=5)

    assert ended.end.why == "reached"
    assert len(ended.end.warnings) == 2
    assert all("forecast.json" in warning for warning in ended.end.warnings)
    assert read_forecasts(driver.run("run")) == []


@pytest.mark.parametrize(
    "damage",
    ["", "{", "[]", '{"format": "llmrun-forecast/2", "segments": []}', '{"format": "llmrun-forecast/1"}'],
)
def test_a_damaged_forecast_is_ignored(driver, pool, damage: str) -> None:
    """Forecasts are best-effort: later runs and plans do without it."""
    driver.train(pool, "run", until=3)
    path = driver.run("run").forecast_file
    document = json.loads(path.read_text())
    path.write_text(damage)

    assert forecasts_below(driver.directory / "runs") == []
    document["segments"][0]["planned"]["step_s"] = "soon"
    path.write_text(json.dumps(document))
    assert forecasts_below(driver.directory / "runs") == []
    assert isinstance(pool, PoolBackend)
