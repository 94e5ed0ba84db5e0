"""A migrated run is replayed like any other, from its migrated state on."""

import shutil

import pytest

from llmrun.errors import InputError
from llmrun.run.directory import RunDirectory
from llmrun.verify.replay.audit import ReplayRequest, replay_run
from llmrun.verify.replay.bisect import bisect_run
from llmrun.verify.replay.execute import Executor
from warm.driver import STEPS, Driver, Silent
from warm.pool import PoolBackend

from .conftest import STEP, Migrator

BIGGER = ("model.n_layers=3", "model.d_ff=64")


@pytest.fixture(scope="module")
def made(server, dataset, old_runs, tmp_path_factory, grow):
    """A finished migrated run, whose checkpoints are all kept."""
    directory = tmp_path_factory.mktemp("migrated")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        driver, pool = Driver(directory, dataset), PoolBackend(server)
        Migrator(driver, old_runs.D1).migrate(pool, "bigger", grow, *BIGGER, "checkpoint.keep_last=10")
        driver.resume(pool, "bigger")
    return driver.run("bigger")


@pytest.fixture
def migrated(made, tmp_path):
    """A copy of that run, to damage."""
    shutil.copytree(made.path, tmp_path / "bigger")
    return RunDirectory(tmp_path / "bigger")


@pytest.fixture
def executor(pool, tmp_path):
    """Executes in a directory of its own."""
    (tmp_path / "scratch").mkdir()
    return Executor(pool, Silent(), tmp_path / "scratch")


def test_a_migrated_run_is_replayed(migrated, executor):
    """All its steps from the migrated state, the last ones from a later checkpoint, and drawn windows: equal."""
    whole = replay_run(migrated.path, ReplayRequest(from_step=STEP), executor).verdict
    assert (whole.finding, whole.complete, whole.steps_compared) == (None, True, STEPS - STEP)
    assert whole.fingerprints.equal

    assert replay_run(migrated.path, ReplayRequest(), executor).verdict.finding is None

    drawn = replay_run(migrated.path, ReplayRequest(windows=2, steps=3), executor)
    assert drawn.verdict.finding is None
    assert drawn.draw.n_steps == STEPS - STEP
    assert all(STEP < first <= last <= STEPS for first, last in drawn.draw.windows)


def test_a_step_of_a_migrated_run_is_bisected(migrated, executor):
    """The first step after the migration, executed twice, has the same modules and the recorded bits."""
    found = bisect_run(migrated.path, STEP, 1, executor).bisection

    assert found.recorded == {"first": None, "second": None}


def test_the_config_is_found_without_the_worker_spec(migrated, executor):
    """run.json alone holds the config of the fingerprint too."""
    migrated.worker_spec_file(1).unlink()

    assert replay_run(migrated.path, ReplayRequest(steps=1), executor).verdict.finding is None


def test_a_migrated_run_is_not_replayed_from_before_its_origin(migrated, executor):
    """An earlier step, or a migrated state that is gone: refused in words."""
    with pytest.raises(InputError, match="--from must be at least 6, got 5: bigger begins there"):
        replay_run(migrated.path, ReplayRequest(from_step=5), executor)
    (migrated.checkpoints / "step-00000006").rename(migrated.path / "elsewhere")
    with pytest.raises(InputError, match="it begins at step 6 with a migrated state"):
        replay_run(migrated.path, ReplayRequest(from_step=STEP), executor)


def test_another_migrated_state_is_found(migrated, executor):
    """A migration.json that was edited contradicts the checkpoint."""
    text = migrated.migration_file.read_text()
    start = text.index('"weights": "') + len('"weights": "')
    digit = "0" if text[start] != "0" else "1"
    migrated.migration_file.write_text(text[:start] + digit + text[start + 1 :])

    finding = replay_run(migrated.path, ReplayRequest(from_step=STEP), executor).verdict.finding
    assert "step-00000006 is not the state that the ledger recorded: weights, chain" in finding.diagnosis
