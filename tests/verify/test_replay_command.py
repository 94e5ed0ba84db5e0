"""`llmrun replay` and `llmrun bisect`: which options go together, and one real replay through torchrun."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmrun.cli.app import run as command


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["replay", "a", "--seed", "3"], "--seed"),
        (["replay", "a", "--windows", "3", "--from", "2"], "--from"),
        (["bisect", "a", "b", "--steps", "3"], "--steps"),
        (["bisect", "a", "b", "--from", "3"], "--from"),
    ],
)
def test_options_that_do_not_go_together(runs, capsys, arguments, option):
    """Exit code 2, nothing executed, the option in the message."""
    runs.make("a")
    runs.make("b")
    code = command([*arguments, "--json"], as_json=True)
    error = json.loads(capsys.readouterr().err)

    assert code == error["exit_code"] == 2
    assert error["message"].startswith(f"{option} ")


@pytest.mark.parametrize(
    ("arguments", "now"),
    [
        (["a", "--windows", "3"], "replay"),
        (["a", "--from", "3"], "replay"),
        (["a", "b", "--bisect"], "bisect"),
        (["--statistical", "--baseline", "x", "--candidate", "y"], "equivalence"),
        (["--baseline", "x"], "equivalence"),
    ],
)
def test_options_of_other_commands_name_their_command(runs, capsys, arguments, now):
    """`llmrun verify` compares two; its error for an option of replay, bisect or equivalence names that command."""
    code = command(["verify", *arguments])

    assert code == 2
    assert capsys.readouterr().err.splitlines()[0].endswith(f"use `llmrun {now}`")


def test_one_run_alone_is_not_compared(runs, capsys):
    """Exit code 2, and `llmrun replay` is named with the run."""
    runs.make("a")
    code = command(["verify", "a"])

    assert code == 2
    assert "`llmrun replay runs/a`" in capsys.readouterr().err


def test_a_run_that_trained_nothing_real_is_refused(runs, capsys):
    """These runs were made by hand: their config is none."""
    runs.make("a")
    code = command(["replay", "a"])

    assert code == 3
    assert capsys.readouterr().err.startswith("error: ")


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
    """Trained on D = 2, recorded on D = 1; then edited, and caught.  The scratch directory is gone each time."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    Path("demo.yaml").write_text(CONFIG.replace("DATA", str(dataset)))
    trained = llmrun("train", "demo.yaml", "--run", "demo")
    assert trained.returncode == 0, trained.stderr

    replayed = llmrun("replay", "demo", "--from", "4", "--steps", "5", "--D", "1")
    lines = replayed.stdout.splitlines()
    assert replayed.returncode == 0, replayed.stderr
    assert lines[2] == "executed     steps 5 to 9 on D = 1, from checkpoint step-00000004: 5 records equal"
    assert lines[-1].startswith("equal: ")

    windows = llmrun("replay", "demo", "--windows", "1", "--steps", "3", "--seed", "5", "--json")
    document = json.loads(windows.stdout)
    assert (windows.returncode, document["equal"], document["replay"]["windows"]["count"]) == (0, True, 1)

    bisected = llmrun("bisect", "demo", "--from", "4", "--json")
    document = json.loads(bisected.stdout)
    assert (bisected.returncode, document["bisect"]["as_recorded"]) == (0, {"first": True, "second": True})
    assert list((tmp_path / "scratch").glob("llmrun-replay-*")) == []
