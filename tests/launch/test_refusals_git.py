"""A checkpoint is bound to its commit: what a changed repository means for a resume."""

import re
import shutil
import subprocess

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
    project.starter.source_files["my_model/net.py"] = "dd" * 32
    project.starter.dies_after = 13
    project.train()
    project.starter.dies_after = None
    return project


def test_uncommitted_changes_are_refused_with_the_files_that_matter(in_repository):
    """How many files differ, and which of them the worker imports."""
    (in_repository.path / "my_model" / "net.py").write_text("width = 2\n")
    in_repository.edit("name: demo", "name: demo # a remark")
    error = in_repository.refusal()

    assert error.says == (
        "uncommitted changes are not the same; 2 files differ, the worker imports 1 of them: my_model/net.py"
    )
    assert error.where == "code changed since step 10"


def test_another_commit_is_refused_though_no_file_that_matters_differs(in_repository):
    """The seed's rule: a checkpoint is bound to its commit."""
    (in_repository.path / "notes.md").write_text("notes\n")
    git(in_repository.path, "add", "--all")
    git(in_repository.path, "commit", "--quiet", "-m", "second")
    error = in_repository.refusal()

    assert re.sub("[0-9a-f]{12}", "H", error.says) == (
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

    assert "the repository around the working directory is another one" in in_repository.refusal().says


def test_an_untracked_file_is_recorded_and_refuses_nothing(in_repository):
    """Notes beside the code do not stop a run."""
    (in_repository.path / "notes.md").write_text("notes\n")
    in_repository.resume()

    text = (in_repository.run.segment_provenance(2) / "git.json").read_text()
    assert "notes.md" in text
