"""An old run to migrate, trained once, and scripts that migrate it."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from llmrun.config.load import load_config
from llmrun.launch.preflight import find_run_inputs
from llmrun.migrate.new_run import MigrationRequest, migrate, run_mapping
from llmrun.migrate.script import read_script
from llmrun.storage.checkpoint.verification import open_verified
from warm.driver import Driver
from warm.fixtures import dataset, driver, pool, server
from warm.pool import PoolBackend

__all__ = ["dataset", "driver", "pool", "server"]

STEP = 6

GROW = """
def widen(values, fresh):
    fresh[tuple(slice(n) for n in values.shape)] = values
    return fresh

def migrate(old, new):
    state = {}
    for name, tensor in old.items():
        fits = tensor.shape == new[name]
        state[name] = tensor if fits else tensor.apply(widen, new.init(name))
    for name in new.missing(state):
        state[name] = new.init(name)
    return state
"""


class Migrator:
    """Migrates the old run by a script into another one."""

    def __init__(self, driver: Driver, old: Path) -> None:
        self.driver, self.old = driver, old
        self.said: list[str] = []

    def order(self, name: str, script: str, *overrides: str) -> MigrationRequest:
        """What `llmrun migrate` would be asked."""
        file = self.driver.directory / "script.py"
        file.write_text(script)
        runs = self.driver.directory / "runs"
        loaded = load_config(self.driver.config, [f"runs_dir={runs}", *overrides])
        return MigrationRequest(self.old, file, loaded, runs / name)

    def migrate(self, backend: PoolBackend, name: str, script: str, *overrides: str, **given):
        """The whole command."""
        order = self.order(name, script, *overrides)
        return migrate(order, backend, self.said.append, lambda *_: None, lambda *_: None, **given)

    def mapping(self, script: str, *overrides: str):
        """The mapped state, nothing written."""
        order = self.order("none", script, *overrides)
        inputs = find_run_inputs(order.config, [Path.cwd()])
        parent = open_verified(self.old / "checkpoints" / f"step-{STEP:08d}")
        return run_mapping(read_script(order.script), parent, inputs)


@pytest.fixture(scope="session")
def old_runs(tmp_path_factory, dataset, server):
    """Runs of 2 layers that stand at step 6, made on D = 1 and on D = 2."""
    driver = Driver(tmp_path_factory.mktemp("old"), dataset)
    for D in (1, 2):
        driver.train(PoolBackend(server), f"D{D}", f"batch.D={D}", until=STEP)
    return SimpleNamespace(D1=driver.run("D1").path, D2=driver.run("D2").path)


@pytest.fixture
def migrator(driver, old_runs):
    """Migrates the old run made on D = 1."""
    return Migrator(driver, old_runs.D1)


@pytest.fixture
def migrator_of_two(driver, old_runs):
    """Migrates the old run made on D = 2."""
    return Migrator(driver, old_runs.D2)


@pytest.fixture(scope="session")
def grow():
    """The script that carries old values over, and initialises what is new."""
    return GROW
