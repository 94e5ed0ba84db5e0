"""A checkpoint is bound to its commit: what a changed repository means for a resume."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest


def git(path, *arguments):
    """Run git in a repository of the test."""
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    subprocess.run(["git", *identity, *arguments], cwd=path, check=True, capture_output=True)


@pytest.fixture
def in_repository(project, monkeypatch):
    """A run that was made in a repository with two files, killed after step 13."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    git(project.path, "init", "--quiet")
    (project.path / ".gitignore").write_text("/data\n/runs\n")
    (project.path / "my_model").mkdir()
    (project.path / "my_model" / "net.py").write_text("width = 1\n")
    git(project.path, "add", "--all")
    git(project.path, "commit", "--quiet", "-m", "first")
    project.backend.source_files["my_model/net.py"] = "dd" * 32
    project.backend.dies_after = 13
    project.train()
    project.backend.dies_after = None
    return project


def test_uncommitted_changes_are_refused_with_the_files_that_matter(in_repository):
    """How many files differ, and which of them the worker imports."""
    (in_repository.path / "my_model" / "net.py").write_text("width = 2\n")
    in_repository.edit("name: demo", "name: demo # a remark")
    error = in_repository.refusal()

    assert error.message == (
        "uncommitted changes differ; 2 files differ, the worker imports 1 of them: my_model/net.py"
    )
    assert error.caused_by == ("code changed since step 10",)


def test_another_commit_is_refused_though_no_file_that_matters_differs(in_repository):
    """The seed's rule: a checkpoint is bound to its commit."""
    (in_repository.path / "notes.md").write_text("notes\n")
    git(in_repository.path, "add", "--all")
    git(in_repository.path, "commit", "--quiet", "-m", "second")
    error = in_repository.refusal()

    assert re.sub("[0-9a-f]{12}", "H", error.message) == (
        "git commit: H -> H; 1 file differs, the worker imports none of them: notes.md"
    )
    in_repository.resume(allow=["code"])
    assert in_repository.record.last.allowed == ["code"]


def test_another_repository_is_told_apart(in_repository, tmp_path):
    """Its root commit is another one."""
    shutil.rmtree(in_repository.path / ".git")
    git(in_repository.path, "init", "--quiet")
    git(in_repository.path, "add", "--all")
    git(in_repository.path, "commit", "--quiet", "-m", "another first")

    assert "the repository around the working directory is another one" in in_repository.refusal().message


def test_an_untracked_file_is_recorded_and_refuses_nothing(in_repository):
    """Notes beside the code do not stop a run."""
    (in_repository.path / "notes.md").write_text("notes\n")
    in_repository.resume()

    text = (in_repository.run.segment_provenance(2) / "git.json").read_text()
    assert "notes.md" in text


def break_filter(path):
    """From now on git cannot compare files of this kind: the program of their filter is gone."""
    git(path, "config", "filter.odd.clean", "no-such-program-of-a-filter")
    git(path, "config", "filter.odd.required", "true")


@pytest.fixture
def with_filter(in_repository):
    """A run in a repository with a file that has a filter, and an uncommitted change in another one."""
    path = in_repository.path
    (path / ".gitattributes").write_text("*.dat filter=odd\n")
    (path / "weights.dat").write_text("1\n")
    git(path, "add", "--all")
    git(path, "commit", "--quiet", "-m", "weights")
    (path / "my_model" / "net.py").write_text("width = 22\n")
    in_repository.backend.dies_after = 13
    in_repository.resume(allow=["code"])
    in_repository.backend.dies_after = None
    return in_repository


def test_settings_of_git_refuse_nothing(with_filter, monkeypatch, tmp_path):
    """The user's configuration changed, the tree did not; nor does a record with another patch of the same tree."""
    (tmp_path / "gitconfig").write_text("[core]\nabbrev = 12\n[diff]\nalgorithm = histogram\ncontext = 7\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    text = with_filter.run.record_file.read_text()
    with_filter.run.record_file.write_text(text.replace(with_filter.record.last.git["diff_sha256"], "0" * 64))
    with_filter.resume()

    assert with_filter.record.last.allowed == []
    assert with_filter.record.last.changes == []


def test_what_git_cannot_compare_is_reported_and_refuses_nothing(with_filter):
    """The reason is on the screen and in the segment's record; git.json says that its diff is not whole."""
    (with_filter.path / "weights.dat").write_text("two\n")
    break_filter(with_filter.path)
    with_filter.resume()
    last = with_filter.record.last
    recorded = json.loads((with_filter.run.segment_provenance(last.segment) / "git.json").read_text())

    assert last.allowed == []
    assert any("no-such-program-of-a-filter" in line for line in last.changes)
    assert any("no-such-program-of-a-filter" in line for line in with_filter.said)
    assert recorded["diff_complete"] is False
    assert recorded["dirty"].keys() == {"my_model/net.py", "weights.dat"}


def test_a_known_difference_refuses_though_git_cannot_compare_all(with_filter):
    """A file that was recorded with an uncommitted change is held against its content."""
    (with_filter.path / "weights.dat").write_text("two\n")
    (with_filter.path / "my_model" / "net.py").write_text("width = 333\n")
    break_filter(with_filter.path)

    assert "the worker imports 1 of them: my_model/net.py" in with_filter.refusal().message


def test_a_run_starts_in_a_repository_that_cannot_be_read(project):
    """A broken index: the run trains, and the screen and git.json say what is missing."""
    git(project.path, "init", "--quiet")
    (project.path / ".gitignore").write_text("/data\n/runs\n")
    git(project.path, "add", "--all")
    git(project.path, "commit", "--quiet", "-m", "first")
    (project.path / ".git" / "index").write_bytes(b"DIRC broken")
    ended = project.train()
    recorded = json.loads((project.run.provenance / "git.json").read_text())

    assert ended.end.why == "finished"
    assert recorded["commit"] is not None
    assert [line for line in recorded["missing"] if "index file" in line]
    assert set(recorded["missing"]) <= set(project.said)
    assert project.record.git["incomplete"]


def test_a_change_in_a_submodule_is_refused_and_named(in_repository, tmp_path_factory):
    """An edit and a commit: the submodule and the file are named."""
    path, other = in_repository.path, tmp_path_factory.mktemp("submodule")
    git(other, "init", "--quiet")
    (other / "layer.py").write_text("w = 1\n")
    git(other, "add", "--all")
    git(other, "commit", "--quiet", "-m", "layer")
    git(path, "-c", "protocol.file.allow=always", "submodule", "add", "--quiet", str(other), "libs/sub")
    git(path, "commit", "--quiet", "-m", "with a submodule")
    in_repository.backend.dies_after = 13
    in_repository.resume(allow=["code"])
    in_repository.backend.dies_after = None
    (path / "libs" / "sub" / "layer.py").write_text("w = 2\n")
    edited = in_repository.refusal()
    git(path / "libs" / "sub", "commit", "--quiet", "--all", "-m", "wider")
    committed = in_repository.refusal()

    assert "libs/sub/layer.py" in edited.message
    assert "submodule libs/sub: " in committed.message
    assert "libs/sub/layer.py" in committed.message


def test_names_that_are_not_utf_8_are_on_record(in_repository):
    """In the tree, changed and untracked: the run goes on, and a second resume finds the same names."""
    path = os.fsencode(in_repository.path)
    Path(os.fsdecode(path + b"/changed-\xff.py")).write_text("x = 1\n")
    git(in_repository.path, "add", "--all")
    Path(os.fsdecode(path + b"/untracked-\xfe.py")).write_text("y = 1\n")
    in_repository.backend.dies_after = 13
    in_repository.resume(allow=["code"])
    in_repository.backend.dies_after = None
    in_repository.resume()
    last = in_repository.record.last
    recorded = json.loads((in_repository.run.segment_provenance(last.segment) / "git.json").read_text())

    assert [os.fsencode(name) for name in last.git["dirty"]] == [b"changed-\xff.py"]
    assert [os.fsencode(file["name"]) for file in recorded["untracked"]] == [b"untracked-\xfe.py"]
    assert last.changes == []
