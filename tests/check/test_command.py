"""`llmrun check` as a command: exit codes, JSON, the scratch directory, and what only real processes show."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llmrun.cli.app import run as command

MODELS = Path(__file__).parent / "models"

CONFIG = """
name: checked
T_tokens: 1Mi
runs_dir: my-runs
model: {factory: "FACTORY", vocab_size: 97}
batch: {GB_tok: 2Ki, μ_tok: 64, L_ctx: 16}
hardware: {device: cpu}
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A working directory with the models, and a place for scratch directories of its own."""
    shutil.copytree(MODELS, tmp_path / "project")
    (tmp_path / "temporary").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    return tmp_path / "project"


def check(project: Path, factory: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    (project / "config.yaml").write_text(CONFIG.replace("FACTORY", factory))
    line = [sys.executable, "-P", "-m", "llmrun", "check", "config.yaml", "--synthetic", "--json", *options]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(line, cwd=project, env=environment, capture_output=True, text=True, check=False)


def test_a_config_without_data_needs_synthetic(project, capsys):
    """Exit code 2, and the option that helps is named."""
    (project / "config.yaml").write_text(CONFIG.replace("FACTORY", "honest_models:tiny"))
    code = command(["check", "config.yaml", "--json"], as_json=True)
    error = json.loads(capsys.readouterr().err.partition("{")[2].join(["{", ""]))

    assert code == error["exit_code"] == 2
    assert error["where"]["key"] == "data.path"
    assert "--synthetic" in error["hints"][0]["text"]
    assert list((project.parent / "temporary").iterdir()) == []


def test_statistical_mode_promises_nothing_to_check(project, capsys):
    """Exit code 2, at the field that has to change."""
    (project / "config.yaml").write_text(CONFIG.replace("FACTORY", "honest_models:tiny"))
    options = ["--synthetic", "--set", "reproducibility.mode=statistical", "--json"]
    code = command(["check", "config.yaml", *options], as_json=True)

    assert code == 2
    assert "reproducibility.mode" in capsys.readouterr().err


@pytest.mark.slow
def test_an_honest_model_through_torchrun(project):
    """Exit code 0 and one JSON object; no scratch directory and no runs directory is left."""
    done = check(project, "honest_models:tied")
    report = json.loads(done.stdout)

    assert done.returncode == 0, done.stderr
    assert (report["keeps_promise"], report["first"]) == (True, None)
    assert {each["verdict"] for each in report["findings"]} == {"yes", "warning"}
    assert list((project.parent / "temporary").glob("llmrun-check-*")) == []
    assert not (project / "my-runs").exists()


@pytest.mark.slow
def test_the_order_of_a_set_is_named_where_it_is_used(project):
    """Another PYTHONHASHSEED needs another process; exit code 1, and `--keep` leaves the executions to look at."""
    done = check(project, "offenders.set_order:model", "--keep")
    report = json.loads(done.stdout)

    assert done.returncode == 1, done.stderr
    assert (report["first"]["name"], report["first"]["module"]) == ("hash_seed", "blocks.1.part")
    assert report["first"]["phase"] == "forward"
    assert (Path(report["kept"]) / "reference" / "trace.jsonl").exists()


@pytest.mark.slow
def test_a_file_that_hides_behind_the_standard_library_is_named(project):
    """`random.py` beside the model is never imported: both files and the line of the import are named."""
    (project / "random.py").write_text("SCALE = 2.0\n")
    done = check(project, "offenders.shadowed:model")
    report = json.loads(done.stdout)
    (broken,) = (each for each in report["findings"] if each["verdict"] == "no")

    assert done.returncode == 1, done.stderr
    assert broken["name"] == "imports"
    assert broken["source"] == f"{project / 'offenders' / 'shadowed.py'}:3"
    assert str(project / "random.py") in broken["details"][0]


@pytest.mark.slow
def test_a_refused_operation_through_torchrun(project):
    """The dispatch of a real agent's fork names the line too."""
    done = check(project, "offenders.put:model")
    first = json.loads(done.stdout)["first"]

    assert done.returncode == 1, done.stderr
    assert (first["name"], first["module"]) == ("operations", "blocks.1.part")
    assert first["source"].startswith(str(project / "offenders" / "put.py"))
