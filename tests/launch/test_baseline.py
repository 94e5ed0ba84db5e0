"""`monitor.baseline`: the band is made before training starts, kept in the run, and never in the way."""

import json

import numpy as np
import pytest

from llmrun.errors import InputError
from llmrun.storage.metrics.loss_band import Baseline

KEY = "monitor.baseline"


def losses_of(project, name, seed, steps=20):
    """Give a run the metrics of a seed."""
    away = np.random.default_rng(seed).standard_normal() / 100
    rows = [{"step": step, "loss_smooth": 5.0 - step / 100 + away} for step in range(1, steps + 1)]
    path = project.path / "runs" / name / "metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def baseline(project):
    """Three finished runs of other seeds."""
    for seed in (1, 2, 3):
        project.train(identity=f"base-{seed}", overrides=[f"seed={seed}"])
        losses_of(project, f"base-{seed}", seed)
    project.said.clear()
    return project


def prepared(project, *asked, **wished):
    """A further run that is watched, ready to start."""
    overrides = [f"{KEY}={json.dumps(asked)}", *wished.pop("overrides", ())]
    ready = project.prepare(identity="new", overrides=overrides, **wished)
    ready.lock.release()
    return ready


def refused(project, *asked, **wished):
    """The error of a run that is to be watched; no directory may be left behind."""
    before = sorted(path.name for path in (project.path / "runs").iterdir())
    with pytest.raises(InputError) as caught:
        prepared(project, *asked, **wished)
    assert sorted(path.name for path in (project.path / "runs").iterdir()) == before
    assert caught.value.exit_code == 2
    return caught.value.message


@pytest.mark.parametrize("asked", [("base-*",), ("base-1", "base-2", "base-3"), ("runs/base-[1-3]",)])
def test_the_band_lies_in_the_run(baseline, asked):
    """Mean and standard deviation of the three, in baseline.json; the workers are told, and so is the user."""
    ready = prepared(baseline, *asked)
    found = Baseline.read(ready.run.baseline_file)
    aways = [np.random.default_rng(seed).standard_normal() / 100 for seed in (1, 2, 3)]

    assert ready.worker_spec.baseline is True
    assert (found.asked, found.runs) == (asked, ("base-1", "base-2", "base-3"))
    assert found.band.mean[9] == pytest.approx(4.9 + np.mean(aways))
    assert found.band.sd[9] == pytest.approx(np.std(aways, ddof=1))
    assert any(line.startswith("baseline: 3 runs, 20 steps") for line in baseline.said)


def test_without_a_baseline_nothing_is_written(project):
    """The default."""
    ready = project.prepare(identity="new")
    ready.lock.release()

    assert ready.worker_spec.baseline is False
    assert not ready.run.baseline_file.exists()


def test_what_differs_is_told(baseline):
    """Another learning rate is a wish or a mistake: the user is told which."""
    prepared(baseline, "base-*", overrides=["optimizer.lr=5e-4"])

    assert "this run and its baseline differ in optimizer.lr" in baseline.said


def test_a_shorter_baseline_is_told(baseline):
    """Beyond its last step nothing is watched."""
    losses_of(baseline, "base-2", 2, steps=12)
    prepared(baseline, "base-*")

    assert "the shortest run of the baseline ends at step 12: later steps are not watched" in baseline.said


def test_too_few_runs(baseline):
    """One run has no scatter."""
    assert refused(baseline, "base-1").endswith("got 1")


def test_runs_that_are_not_there(baseline):
    """By name and by pattern."""
    assert refused(baseline, "base-1", "base-9") == "there is no run base-9"
    assert refused(baseline, "other-*") == "no run matches other-*"
    assert "a pattern must be in the last part" in refused(baseline, "r*/base-1")


def test_one_draw_counted_twice(baseline):
    """Two runs with equal losses are no scatter."""
    losses_of(baseline, "base-2", 1)

    assert "equal losses" in refused(baseline, "base-*")


def test_a_run_without_metrics(baseline):
    """Nothing to compare with."""
    (baseline.path / "runs" / "base-2" / "metrics.jsonl").unlink()

    assert refused(baseline, "base-*").endswith("base-2 has no metrics yet")


def test_another_batch(baseline):
    """A step is not the same there."""
    message = refused(baseline, "base-*", overrides=["batch.GB_tok=2Ki"])

    assert message == "base-1 has GB_tok = 1,024, this run 2,048: their steps cannot be compared"


def test_a_resumed_run_needs_the_baseline_no_more(baseline):
    """Its runs may be gone: the band of the first segment holds on, to the last digit."""
    asked = [f"{KEY}=[base-*]"]
    baseline.backend.dies_after = 13
    baseline.train(overrides=asked)
    baseline.backend.dies_after = None
    band = baseline.run.baseline_file.read_bytes()
    for seed in (1, 2, 3):
        (baseline.path / "runs" / f"base-{seed}").rename(baseline.path / f"gone-{seed}")
    baseline.resume()

    assert baseline.worker_spec(2).baseline is True
    assert baseline.run.baseline_file.read_bytes() == band


def test_a_resumed_run_can_be_watched_from_then_on(baseline):
    """`--set` on resume; its own name fits the pattern and does not count."""
    baseline.backend.dies_after = 13
    baseline.train()
    baseline.backend.dies_after = None
    baseline.resume(overrides=[f"{KEY}=[base-*,demo]"])

    assert baseline.worker_spec(1).baseline is False
    assert baseline.worker_spec(2).baseline is True
    assert Baseline.read(baseline.run.baseline_file).runs == ("base-1", "base-2", "base-3")


def test_a_wrong_baseline_touches_no_file_of_a_resumed_run(baseline):
    """It is looked at before anything is cut back."""
    baseline.backend.dies_after = 13
    baseline.train()
    baseline.backend.dies_after = None
    before = baseline.files()
    with pytest.raises(InputError, match="got 1"):
        baseline.prepare_resume(overrides=[f"{KEY}=[base-1]"])

    assert baseline.files() == before
