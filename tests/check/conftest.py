"""Checks of small models of tests/check/models, by the warm pool."""

from pathlib import Path

import pytest

from llmrun.check.checks import INSPECTED, Check
from llmrun.check.prepare import prepare
from llmrun.check.report import CheckReport
from llmrun.check.scratch import Portion
from llmrun.config.load import load_config
from warm.driver import Silent
from warm.fixtures import server
from warm.pool import PoolBackend

__all__ = ["server"]

ROOT = Path(__file__).parents[2]
MODELS = Path(__file__).parent / "models"

CONFIG = """
name: checked
T_tokens: 1Mi
model: {factory: "FACTORY", import_root: ROOT, vocab_size: 97}
batch: {GB_tok: 2Ki, μ_tok: 64, L_ctx: 16}
optimizer: {lr: 3e-3}
hardware: {device: cpu}
"""

BUILT_IN = """
name: checked
T_tokens: 1Mi
model: {n_layers: 2, d_model: 72, n_heads: 4, n_kv_heads: 2, d_ff: 43, dropout: 0.1, vocab_size: 97}
batch: {GB_tok: 2Ki, μ_tok: 64, L_ctx: 16}
hardware: {device: cpu}
"""


def check(directory: Path, config: str, backend, *overrides: str) -> CheckReport:
    """The report of a check in `directory`."""
    path = directory / "config.yaml"
    path.write_text(config)
    return check_file(directory, path, backend, *overrides)


def check_file(directory: Path, path: Path, backend, *overrides: str) -> CheckReport:
    """The report of a check of a config file, with a scratch directory in `directory`."""
    scratch = directory / "scratch"
    scratch.mkdir()
    loaded = load_config(path, overrides)
    runs, report = prepare(loaded, 2, scratch, backend, Silent(), synthetic=True, kept=False)
    return Check(runs, 2, report, lambda *_: None).run()


def config_of(factory: str, root: Path = MODELS) -> str:
    """A config whose model is made by `factory`."""
    return CONFIG.replace("FACTORY", factory).replace("ROOT", str(root))


@pytest.fixture
def checked(server, tmp_path, monkeypatch):
    """Checks the model of a factory."""
    monkeypatch.chdir(tmp_path)
    return lambda factory, *overrides: check(tmp_path, config_of(factory), PoolBackend(server), *overrides)


@pytest.fixture
def checked_built_in(server, tmp_path, monkeypatch):
    """Checks the built-in model."""
    monkeypatch.chdir(tmp_path)
    return lambda *overrides: check(tmp_path, BUILT_IN, PoolBackend(server), *overrides)


@pytest.fixture
def inspect(server, tmp_path, monkeypatch):
    """Inspects the model of a factory, with no execution."""
    monkeypatch.chdir(tmp_path)

    def inspected(factory: str):
        path = tmp_path / "config.yaml"
        path.write_text(config_of(factory))
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        runs, _ = prepare(
            load_config(path), 2, scratch, PoolBackend(server), Silent(), synthetic=True, kept=False
        )
        found = runs.execute("inspect", INSPECTED, Portion(until_step=0, inspected=True)).inspection
        assert found is not None
        return found

    return inspected


@pytest.fixture
def checked_example(server, tmp_path, monkeypatch):
    """Checks a config of examples/own-model with short sequences."""
    monkeypatch.chdir(tmp_path)
    short = ("model.vocab_size=97", "batch.L_ctx=16", "batch.μ_tok=64", "batch.GB_tok=2Ki")
    return lambda name: check_file(
        tmp_path, ROOT / "examples" / "own-model" / f"{name}.yaml", PoolBackend(server), *short
    )
