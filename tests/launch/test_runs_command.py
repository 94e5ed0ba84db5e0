"""`llmrun runs list | show | diff`: what ran, from what, and how two runs differ."""

import json
import re

import pytest

from llmrun.cli.app import run


@pytest.fixture
def two_runs(project):
    """A finished run, and a reached one with another learning rate."""
    project.train(identity="first")
    project.train(identity="second", overrides=["optimizer.lr=0.0005"], until=7)
    return project


def test_list(two_runs, capsys):
    """One line a run, aligned."""
    assert run(["runs", "list"]) == 0
    out = re.sub(r"[0-9a-f]{12}$", "H", capsys.readouterr().out, flags=re.MULTILINE)

    assert out == (
        "run     status                  step  D  segments  fingerprint\n"
        "first   finished               20/20  2         1  H\n"
        "second  reached                 7/20  2         1  H\n"
    )


def test_list_json(two_runs, capsys):
    """The same for scripts."""
    assert run(["runs", "list", "--json"], as_json=True) == 0
    first, second = json.loads(capsys.readouterr().out)

    assert (first["name"], first["status"], first["step"], first["steps"], first["D"]) == (
        "first",
        "finished",
        20,
        20,
        2,
    )
    assert second["fingerprint"] != first["fingerprint"]


def test_an_empty_place(project, capsys):
    """Nothing on stdout, a sentence on stderr."""
    assert run(["runs", "list"]) == 0
    captured = capsys.readouterr()

    assert captured.out == ""
    assert captured.err == "there are no runs below runs; `llmrun train CONFIG` starts one\n"


def test_show(two_runs, capsys):
    """Status, fingerprint, commit, segments."""
    assert run(["runs", "show", "second"]) == 0
    out = capsys.readouterr().out

    assert "second: reached, 20 steps, made 20" in out
    assert "git commit none, 0 files with uncommitted changes" in out
    assert re.search(r"segment 1: steps 0 to 7 on D = 2 \(.+\), reached", out)
    assert run(["runs", "show", "runs/second", "--json"], as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["segments"][-1]["from_step"] == 0


def test_diff(two_runs, capsys):
    """Field by field; equal runs say so."""
    assert run(["runs", "diff", "first", "second"]) == 0
    assert capsys.readouterr().out == "config: optimizer.lr: 0.001 -> 0.0005\n"
    assert run(["runs", "diff", "first", "second", "--json"], as_json=True) == 0
    assert json.loads(capsys.readouterr().out) == {
        "equal": False,
        "changes": [{"part": "config", "key": "optimizer.lr", "a": 0.001, "b": 0.0005}],
    }
    assert run(["runs", "diff", "first", "first"]) == 0
    assert capsys.readouterr().out.startswith("equal fingerprints: ")


def test_an_unknown_run_is_exit_2(two_runs, capsys):
    """With the nearest name."""
    assert run(["runs", "show", "secnd"]) == 2
    assert capsys.readouterr().err == "error: there is no run secnd\n\nhint: did you mean second\n"
