"""`llmrun verify` where steps are executed again: which options go together, and one real replay through torchrun."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmrun.cli.app import run as command

TOGETHER = "`llmrun verify --help` shows what goes together"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["a", "b", "--from", "3"], "--from executes steps again; what is given here is only compared"),
        (["a", "b", "--steps", "3"], "--steps executes steps again; what is given here is only compared"),
        (["a", "b", "--windows", "3"], "--windows executes steps again; what is given here is only compared"),
        (["a", "b", "--D", "3"], "--D executes steps again; what is given here is only compared"),
        (["a", "--seed", "3"], "--seed is for --windows K"),
        (
            ["a", "--windows", "3", "--from", "2"],
            "--from does not go with --windows: they are drawn from the whole run",
        ),
        (["a", "--bisect", "--windows", "3"], "--windows does not go with --bisect"),
        (
            ["a", "b", "--bisect", "--steps", "3"],
            "--steps does not go with --bisect of two runs: the step is the one at which they part",
        ),
        (
            ["a", "--strict"],
            "--strict is for the comparison of two: nothing here has a second length or fingerprint",
        ),
    ],
)
def test_options_that_do_not_go_together(runs, capsys, arguments, message):
    """Exit code 2, nothing executed, the option in the message."""
    runs.make("a")
    runs.make("b")
    code = command(["verify", *arguments, "--json"], as_json=True)
    error = json.loads(capsys.readouterr().err)

    assert (code, error["message"]) == (2, message)


def test_a_run_that_trained_nothing_real_is_refused(runs, capsys):
    """These runs were made by hand: their config is none."""
    runs.make("a")
    code = command(["verify", "a"])

    assert code == 3
    assert "the config of segment 1 cannot be told" in capsys.readouterr().err


CONFIG = """
name: demo
T_tokens: 6Ki
model: {n_layers: 1, d_model: 32, n_heads: 2}
batch: {GB_tok: 512, μ_tok: 128, L_ctx: 64, D: 2, V: 4}
optimizer: {lr: 1e-3}
data: {path: DATA, num_workers: 0}
checkpoint: {every_steps: 4, keep_last: 5}
hardware: {device: cpu}
"""


def llmrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    """One real command line."""
    return subprocess.run(
        [sys.executable, "-m", "llmrun", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=dict(os.environ),
    )


@pytest.mark.slow
def test_a_real_run_is_replayed_through_torchrun(tmp_path, dataset, monkeypatch):
    """Trained on D = 2, audited on D = 1; then edited, and caught.  The scratch directory is gone each time."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    Path("demo.yaml").write_text(CONFIG.replace("DATA", str(dataset)))
    trained = llmrun("train", "demo.yaml", "--run", "demo")
    assert trained.returncode == 0, trained.stderr

    replayed = llmrun("verify", "demo", "--from", "4", "--steps", "5", "--D", "1")
    lines = replayed.stdout.splitlines()
    assert replayed.returncode == 0, replayed.stderr
    assert lines[1].endswith("here as in the run")
    assert lines[2] == "executed     steps 5 to 9 on D = 1, from checkpoint step-00000004: 5 records equal"
    assert lines[-1] == "equal: 5 steps come out with the bits that the run recorded"

    windows = llmrun("verify", "demo", "--windows", "1", "--steps", "3", "--seed", "5", "--json")
    document = json.loads(windows.stdout)
    assert (windows.returncode, document["equal"], document["replay"]["windows"]["count"]) == (0, True, 1)

    bisected = llmrun("verify", "demo", "--bisect", "--from", "4", "--json")
    document = json.loads(bisected.stdout)
    assert (bisected.returncode, document["bisect"]["as_recorded"]) == (0, {"first": True, "second": True})
    assert list((tmp_path / "scratch").glob("llmrun-replay-*")) == []
