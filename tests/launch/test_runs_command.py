"""`llmrun runs list | show | diff`: what ran, from what, and how two runs differ."""

import json
import re
import subprocess

import pytest

from llmrun.cli.app import run


def git(path, *arguments):
    """Run git in a repository of the test."""
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    subprocess.run(["git", *identity, *arguments], cwd=path, check=True, capture_output=True)


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


def rows_of(out: str, part: str) -> list[str]:
    """The lines of one part."""
    return [line.removeprefix(f"{part}: ") for line in out.splitlines() if line.startswith(f"{part}: ")]


def test_diff(two_runs, capsys):
    """Field by field; equal runs say so."""
    assert run(["runs", "diff", "first", "second"]) == 0
    assert capsys.readouterr().out == "config: optimizer.lr: 0.001 -> 0.0005\n"
    assert run(["runs", "diff", "first", "second", "--json"], as_json=True) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["changes"] == [{"part": "config", "key": "optimizer.lr", "old": 0.001, "new": 0.0005}]
    assert document["equal"] is False
    assert run(["runs", "diff", "first", "first"]) == 0
    assert capsys.readouterr().out.startswith("equal fingerprints: ")


def test_diff_of_what_cannot_change_a_bit(two_runs, capsys):
    """Operational fields are shown under that word, and the fingerprints are equal all the same."""
    two_runs.train(identity="third", overrides=["checkpoint.every_steps=4", "batch.D=1"], until=5)
    assert run(["runs", "diff", "first", "third"]) == 0
    out = capsys.readouterr().out

    assert out.splitlines()[0].startswith("equal fingerprints: ")
    assert rows_of(out, "operational") == [
        "batch.A: 2 -> 4",
        "batch.D: 2 -> 1",
        "checkpoint.every_steps: 5 -> 4",
    ]
    assert rows_of(out, "config") == []
    assert run(["runs", "diff", "first", "third", "--json"], as_json=True) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["equal"] is True
    assert {change["part"] for change in document["changes"]} == {"operational"}


def test_diff_is_of_the_last_segments(project, capsys):
    """What a run was allowed to change is what it is now: rate, environment, ranks."""
    project.train(identity="first")
    project.train(until=10)
    project.backend.environment["torch"] = "2.14.0"
    project.resume(overrides=["optimizer.lr=0.0005"], allow=["config", "environment"], D=3)
    assert run(["runs", "diff", "first", "demo"]) == 0
    out = capsys.readouterr().out

    assert rows_of(out, "config") == ["optimizer.lr: 0.001 -> 0.0005"]
    assert rows_of(out, "environment") == ["torch: 2.13.0 -> 2.14.0"]
    assert rows_of(out, "operational") == ["batch.A: 2 -> null", "batch.D: 2 -> 3"]


def test_diff_of_repositories(project, capsys):
    """The commit, and each file with uncommitted changes."""
    git(project.path, "init", "--quiet")
    (project.path / ".gitignore").write_text("/data\n/runs\n")
    (project.path / "net.py").write_text("width = 1\n")
    git(project.path, "add", "--all")
    git(project.path, "commit", "--quiet", "-m", "first")
    project.train(identity="first")
    (project.path / "net.py").write_text("width = 2\n")
    project.train(identity="second")
    git(project.path, "commit", "--quiet", "--all", "-m", "second")
    project.train(identity="third")
    assert run(["runs", "diff", "first", "second"]) == 0
    dirty = capsys.readouterr().out
    assert run(["runs", "diff", "first", "third"]) == 0
    committed = capsys.readouterr().out

    assert dirty.splitlines()[0].startswith("equal fingerprints: ")
    assert [line.partition(":")[0] for line in rows_of(dirty, "git")] == ["diff_sha256", "dirty.net.py"]
    (line,) = rows_of(committed, "git")
    assert re.fullmatch("commit: [0-9a-f]{40} -> [0-9a-f]{40}", line)


def test_an_unknown_run_is_exit_2(two_runs, capsys):
    """With the nearest name."""
    assert run(["runs", "show", "secnd"]) == 2
    assert capsys.readouterr().err == "error: there is no run secnd\n\nhint: did you mean second\n"


def test_a_run_that_is_a_link_has_a_name_that_is_found(two_runs, capsys):
    """The name in the list is one that the other commands accept; the run of the link's target is the same one."""
    (two_runs.path / "elsewhere").mkdir()
    (two_runs.path / "runs" / "second").rename(two_runs.path / "elsewhere" / "second")
    (two_runs.path / "runs" / "linked").symlink_to(two_runs.path / "elsewhere" / "second")

    assert run(["runs", "list", "--json"], as_json=True) == 0
    names = [found["name"] for found in json.loads(capsys.readouterr().out)]

    assert names == ["first", "linked"]
    for name in names:
        assert run(["runs", "show", name]) == 0
        assert capsys.readouterr().out.startswith(f"{name}: ")
    assert run(["runs", "diff", "linked", "elsewhere/second"]) == 0
    assert "equal fingerprints" in capsys.readouterr().out
