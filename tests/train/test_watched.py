"""Comparisons while a run trains: with an earlier run of its fingerprint, and with a baseline's noise band."""

import json
import shutil

import pytest

from llmrun.errors import RunFailedError
from llmrun.storage.ledger.reader import LedgerReader
from llmrun.storage.metrics.jsonl import rows
from warm.bits import chain_of
from warm.driver import Driver
from warm.pool import PoolBackend

AUTO = "reproducibility.compare_with=auto"
STOP = "reproducibility.on_difference=stop"
LONG = ("T_tokens=12Ki", "eval.every_steps=null")
"""24 steps."""


@pytest.fixture
def place(driver, straight):
    """A place for runs in which `first` has been trained, and in which three runs are a baseline."""
    first = driver.run("first")
    first.path.parent.mkdir()
    shutil.copytree(straight, first.path)
    return driver


@pytest.fixture(scope="module")
def straight(tmp_path_factory, dataset, server):
    """A run that nothing disturbed."""
    driver = Driver(tmp_path_factory.mktemp("straight"), dataset)
    driver.train(PoolBackend(server), "first", *LONG)
    return driver.run("first").path


def warnings_of(run):
    """The warnings of the rows that have any, by step."""
    return {row["step"]: row["warnings"] for row in rows(run.metrics_file) if "warnings" in row}


def test_a_difference_from_the_reference_run_is_on_its_row_at_once(place, server):
    """The warning stands in metrics.jsonl at its step, in run.json, and the run goes on."""
    ended = place.train(PoolBackend(server, "flip_weight_bit", step=9), "second", *LONG, AUTO)
    (message,) = ended.end.warnings

    assert ended.end.why == "finished"
    assert message.startswith("step 10 differs in its loss from first, ")
    assert warnings_of(place.run("second")) == {10: [message]}
    assert ended.record.segments[-1].warnings == [message]


def test_a_difference_from_the_reference_run_stops_if_asked_to(place, server, pool):
    """Exit 4 at the step; a resume is equal to the reference run, which confirms it against the wrong tail, and continues."""
    ended = place.train(PoolBackend(server, "flip_weight_bit", step=9), "second", *LONG, AUTO, STOP)
    run = place.run("second")
    error = ended.error(run)

    assert isinstance(error, RunFailedError)
    assert error.message.startswith("step 10 differs in its loss from first, ")
    assert any("`llmrun verify" in hint for hint in error.hints)
    assert LedgerReader(run.ledger_file).last_step == 10
    assert [path.name for path in run.ledger_tensors.iterdir() if "10" in path.name]
    resumed = place.resume(pool, "second")
    assert resumed.end.why == "finished"
    (warning,) = resumed.end.warnings
    assert warning.startswith("ledger-tail-002.bin is wrong from step 10 on (its loss differs)")
    assert resumed.end.proven_steps == 5


def make_baseline(driver, shift):
    """Three runs whose smoothed losses are those of `first`, moved by `shift` and a little more each."""
    first = driver.run("first")
    for number in range(3):
        copy = driver.run(f"base-{number}")
        shutil.copytree(first.path, copy.path)
        moved = [
            json.dumps(row | {"loss_smooth": row["loss_smooth"] + shift + number / 1000})
            for row in rows(first.metrics_file)
        ]
        copy.metrics_file.write_text("".join(f"{line}\n" for line in moved))


def test_leaving_the_baseline_is_a_warning(place, pool):
    """At the fifteenth step outside; band and z on every row, the warning on its row and in run.json; no bit changes."""
    make_baseline(place, shift=-1.0)
    ended = place.train(pool, "watched", *LONG, "monitor.baseline=[base-*]")
    run = place.run("watched")
    (warning,) = ended.end.warnings

    assert ended.end.why == "finished"
    assert warning.startswith("step 15: the smoothed loss")
    assert "above its mean" in warning
    assert warnings_of(run) == {15: [warning]}
    assert ended.record.segments[-1].warnings == [warning]
    for row in rows(run.metrics_file):
        assert row["baseline_low"] < row["baseline_high"] < row["loss_smooth"]
        assert row["baseline_z"] > 3
    assert chain_of(run) == chain_of(place.run("first"))


def test_a_run_within_its_baseline_is_not(place, pool):
    """Its z is small at every step."""
    make_baseline(place, shift=-0.001)
    ended = place.train(pool, "watched", *LONG, "monitor.baseline=[base-*]")

    assert ended.end.warnings == ()
    assert warnings_of(place.run("watched")) == {}
    assert all(abs(row["baseline_z"]) < 1 for row in rows(place.run("watched").metrics_file))
