"""Timing a few real steps: what is timed, and that no file or process remains."""

import tempfile
from pathlib import Path

import pytest

from llmrun.config.load import load_config
from llmrun.config.resolve import MachineFacts, resolve
from llmrun.errors import InputError, LlmrunError, PreemptedError
from llmrun.launch import benchmark as module
from llmrun.launch.benchmark import STEPS_LEAST, Stopwatch, calibrate, usable_data


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """The system's temporary directory, empty."""
    directory = tmp_path / "temporary"
    directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    return directory


@pytest.fixture(autouse=True)
def short_measurement(monkeypatch) -> None:
    """A few steps are enough."""
    monkeypatch.setattr(module, "ENOUGH_S", 0.01)


def resolved_of(driver, *overrides: str):
    """The driver's config."""
    loaded = load_config(driver.config, ["model.vocab_size=300", *overrides])
    return resolve(loaded, None, MachineFacts(gpus=0))


def test_real_steps_are_timed_and_nothing_remains(driver, pool, place) -> None:
    """The config's own data, real workers, a few steps; then no file and no process is there."""
    resolved = resolved_of(driver)
    timed = calibrate(resolved, pool, lambda: None)

    assert usable_data(resolved) is not None
    assert len(timed.step_s) >= STEPS_LEAST
    assert all(0 < seconds < 10 for seconds in timed.step_s)
    assert (timed.D, timed.micro_batches) == (1, 8)
    assert list(place.iterdir()) == []
    assert pool.workers.poll() is not None
    assert not (driver.directory / "runs").exists()


def test_without_data_tokens_are_drawn(driver, pool, place) -> None:
    """A plan needs no dataset, nor does its calibration."""
    resolved = resolved_of(driver, "data.path=null", "eval.every_steps=null")
    assert usable_data(resolved) is None

    assert len(calibrate(resolved, pool, lambda: None).step_s) >= STEPS_LEAST
    assert list(place.iterdir()) == []


def test_fewer_devices_do_the_same_work_each(driver, pool, monkeypatch, place) -> None:
    """D = 8 on a machine with one core: one rank does what each of eight would."""
    monkeypatch.setattr(module, "cpus_usable", lambda: 1)
    timed = calibrate(resolved_of(driver, "batch.D=8"), pool, lambda: None)

    assert (timed.D, timed.micro_batches) == (1, 1)
    assert list(place.iterdir()) == []


def test_a_stop_ends_the_trial_at_once(driver, pool, place) -> None:
    """What `check` raises passes through; workers and files are gone."""
    calls = iter(range(5))

    def check() -> None:
        if next(calls, None) is None:
            raise PreemptedError("stopped")

    with pytest.raises(PreemptedError):
        calibrate(resolved_of(driver), pool, check)

    assert list(place.iterdir()) == []
    assert pool.workers.poll() is not None


def test_the_error_of_a_worker_is_raised(driver, server, place) -> None:
    """The error is that of the failed worker, as in a run."""
    from warm.pool import PoolBackend

    with pytest.raises(LlmrunError, match="loss of step 2 is nan"):
        calibrate(resolved_of(driver), PoolBackend(server, "poison", step=2, number=0), lambda: None)

    assert list(place.iterdir()) == []


def test_a_missing_gpu_cannot_be_timed(driver, pool) -> None:
    """A CPU's time is no estimate for an H100."""
    with pytest.raises(InputError, match="no GPU here"):
        calibrate(resolved_of(driver, "hardware.accelerator=H100-SXM"), pool, lambda: None)


def test_the_stopwatch_leaves_out_the_warm_up_and_knows_when_to_stop() -> None:
    """Two steps warm up; five of enough length are enough; a slow machine's one step must do after the patience."""
    now = [0.0]
    watch = Stopwatch(clock=lambda: now[0])
    begins = [watch.add({"step": i, "step_seconds": 0.001}) for i in range(4)]

    assert begins == [False, True, False, False]
    assert watch.step_s == [0.001, 0.001]
    assert not watch.is_done
    now[0] = module.PATIENCE_S + 1
    assert watch.is_done
