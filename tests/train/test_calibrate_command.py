"""`llmrun plan --calibrate` as its user calls it: real torchrun, real signals."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.slow

WAIT_S = 60


def started(driver, *options: str) -> subprocess.Popen:
    """The command, with a temporary directory of its own."""
    (driver.directory / "temporary").mkdir()
    variables = {"TMPDIR": str(driver.directory / "temporary"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "llmrun", "plan", str(driver.config), "--calibrate", *options],
        env=os.environ | variables,
        cwd=driver.directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def left_in(directory: Path) -> list[str]:
    """What a trial left."""
    return [path.name for path in directory.iterdir()]


def test_it_times_here_and_leaves_nothing(driver) -> None:
    """The time comes from steps that were timed; no runs directory and no temporary file is there afterwards."""
    command = started(driver, "--json", "--set", "batch.D=2")
    out, err = command.communicate(timeout=300)
    plan = json.loads(out)
    timed = plan["calibration"]

    assert command.returncode == 0, err
    assert timed["D_timed"] in (1, 2)
    assert timed["steps_timed"] >= 5
    assert plan["time_hours"] == pytest.approx(timed["time_hours"])
    assert timed["time_hours"] * 3600 == pytest.approx(plan["steps"] * timed["step_s"])
    assert plan["record"] == {
        "forecasts": {},
        "time_hours_interval": None,
        "memory_bytes_per_rank_interval": None,
    }
    assert left_in(driver.directory / "temporary") == []
    assert not (driver.directory / "runs").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_and_leaves_nothing(driver, number: signal.Signals) -> None:
    """In the middle of the trial: exit 75, no process, no file."""
    command = started(driver)
    place = driver.directory / "temporary"
    until = time.monotonic() + WAIT_S
    while not list(place.glob("*/trial/metrics.jsonl")) and time.monotonic() < until:
        time.sleep(0.05)
    below = psutil.Process(command.pid).children(recursive=True)
    command.send_signal(number)
    _, err = command.communicate(timeout=WAIT_S)

    assert below
    assert command.returncode == 75, err
    assert "nothing was lost" in err
    assert left_in(place) == []
    _, alive = psutil.wait_procs(below, timeout=10)
    assert alive == []
