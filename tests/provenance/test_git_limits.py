"""A repository that git cannot read, or not in time: the rest is on record, with git's words for what is missing."""

import hashlib
import os
import subprocess
import sys
import time

import pytest

from llmrun.provenance.background import GitQuestion
from llmrun.provenance.git_command import Limits, StoppedError
from llmrun.provenance.git_reader import read_git
from llmrun.provenance.git_state import Patch

from .conftest import is_running


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def with_filter(repository, command):
    """A file that git compares only through a required filter."""
    repository.write(".gitattributes", "*.dat filter=odd\n")
    repository.write("weights.dat", "1\n")
    head = repository.commit()
    repository.git("config", "filter.odd.clean", command)
    repository.git("config", "filter.odd.required", "true")
    # Of another size: git knows that it differs without reading it.
    repository.write("weights.dat", "two\n")
    repository.write("model/net.py", "width = 2\n")
    return head


def test_a_missing_filter_program(repository):
    """Commit and contents are on record; git's words say what is missing, and trees are not called comparable."""
    head = with_filter(repository, "no-such-program-of-a-filter")
    state = read_git(repository.path)

    assert state.commit == head
    assert state.dirty == {"model/net.py": sha256(b"width = 2\n"), "weights.dat": sha256(b"two\n")}
    assert state.diff_sha256 is None
    assert state.root_commits
    assert any("no-such-program-of-a-filter" in line for line in state.missing)
    assert state.incomplete


def test_a_filter_that_hangs_is_ended(repository, tmp_path):
    """After the limit no process of it is left; the commit and the branch were read before."""
    head = with_filter(repository, f"echo $$ > {tmp_path}/pid; sleep 300")
    started_s = time.monotonic()
    state = read_git(repository.path, limits=Limits(2.0))
    pid = int((tmp_path / "pid").read_text())

    assert time.monotonic() - started_s < 30
    assert state.commit == head
    assert any("limit of 2 s" in line for line in state.missing)
    assert not is_running(pid)


def has_ended(pid, within_s=5.0):
    """Whether a killed process ends; a busy machine takes a moment."""
    end_s = time.monotonic() + within_s
    while is_running(pid) and time.monotonic() < end_s:
        time.sleep(0.01)
    return not is_running(pid)


def test_a_question_is_withdrawn_at_once(repository, tmp_path):
    """Stopping the launcher ends git and the programs that it started."""
    with_filter(repository, f"echo $$ > {tmp_path}/pid; sleep 300")
    question = GitQuestion(repository.path, [])
    while not question.ready(0.05) and not (tmp_path / "pid").exists():
        pass
    assert not question.ready(0.5)
    started_s = time.monotonic()
    question.withdraw()

    assert time.monotonic() - started_s < 5
    assert has_ended(int((tmp_path / "pid").read_text()))


def test_a_stopped_reader_says_so(repository):
    """Nobody takes half of a state for the whole."""
    limits = Limits(30.0)
    limits.stop()

    with pytest.raises(StoppedError):
        read_git(repository.path, limits=limits)


def test_a_broken_index(repository):
    """The commit is on record, git's words too."""
    (repository.path / ".git" / "index").write_bytes(b"DIRC broken")
    state = read_git(repository.path)

    assert state.commit == repository.git("rev-parse", "HEAD")
    assert any("index file" in line for line in state.missing)
    assert state.incomplete
    assert state.diff_sha256 is None


def test_a_missing_object(repository):
    """A blob that the diff needs is gone: contents are compared without it."""
    blob = repository.git("rev-parse", "HEAD:model/net.py")
    (repository.path / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    repository.write("model/net.py", "width = 2\n")
    state = read_git(repository.path)

    assert state.dirty == {"model/net.py": sha256(b"width = 2\n")}
    assert any(blob in line for line in state.missing)
    assert state.diff_sha256 is None


def test_a_missing_commit(repository):
    """HEAD names a commit that is gone: its name is on record."""
    head = repository.git("rev-parse", "HEAD")
    (repository.path / ".git" / "objects" / head[:2] / head[2:]).unlink()
    state = read_git(repository.path)

    assert state.commit == head
    assert state.incomplete


def test_a_large_diff_is_cut_and_contents_are_still_known(repository):
    """The patch ends at its limit and is called incomplete; what a resume compares is complete."""
    content = os.urandom(3_000_000)
    repository.write("large.bin", content)
    repository.git("add", "large.bin")
    state = read_git(repository.path, patch=Patch(bytes_max=1_000_000))

    assert state.diff.bytes == sum(map(len, state.diff.blocks())) == 1_000_000
    assert state.as_json()["diff_complete"] is False
    assert state.diff_sha256 is None
    assert state.dirty == {"large.bin": sha256(content)}
    assert any("1,000,000 bytes" in line for line in state.missing)
    assert state.incomplete == ()


def test_a_full_disk_costs_the_diff_only(repository, tmp_path):
    """Where the patch cannot be written, the rest is on record."""
    repository.write("model/net.py", "width = 2\n")
    state = read_git(repository.path, patch=Patch(tmp_path / "absent"))

    assert state.dirty == {"model/net.py": sha256(b"width = 2\n")}
    assert state.diff_sha256 is None
    assert len(state.missing) == 1


def test_many_untracked_files_are_counted(repository):
    """12,000 files: those that a worker imports and the first of the others are listed, none of the others is read."""
    (repository.path / "many").mkdir()
    for number in range(12_000):
        (repository.path / "many" / f"{number:05}.txt").touch()
    repository.write("z_last/net.py", "x = 1\n")
    state = read_git(repository.path).with_untracked({"net.py": "0" * 64})

    assert len(state.untracked.listed) == 10_000
    assert state.untracked.more == 2_001
    assert [file.name for file in state.untracked.listed if file.sha256] == ["z_last/net.py"]


def test_a_directory_left_out_is_not_walked(repository):
    """Names with characters of patterns are taken literally."""
    for name in ("runs [1]/a", "runs 1/b", "data*/c", "data1/d"):
        repository.write(name, "1")
    left_out = [repository.path / "runs [1]", repository.path / "data*"]

    assert read_git(repository.path, left_out).untracked_names == ("data1/d", "runs 1/b")


def test_a_refusal_of_an_owner_is_shown_whole(repository, monkeypatch):
    """`safe.directory`: what git says, with the command that it proposes; an exception of the user is honoured."""
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    refused = read_git(repository.path)
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "safe.directory")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", str(repository.path))

    assert refused.commit is None
    assert "dubious ownership" in refused.missing[0]
    assert f"git config --global --add safe.directory {repository.path}" in refused.missing[0]
    assert refused.incomplete
    assert read_git(repository.path).commit is not None


def test_a_link_to_a_repository_that_is_gone(tmp_path):
    """A worktree whose repository was removed is not called a directory without a repository."""
    (tmp_path / ".git").write_text("gitdir: /no/such/repository/.git/worktrees/x\n")
    state = read_git(tmp_path)

    assert "/no/such/repository/.git/worktrees/x" in state.missing[0]
    assert state.incomplete


def test_no_credential_in_gits_words(repository):
    """Words of a filter may hold an address."""
    with_filter(repository, "echo https://alice:s3cret@example.org/lfs >&2; exit 1")
    state = read_git(repository.path)

    assert any("example.org/lfs" in line for line in state.missing)
    assert not any("s3cret" in line for line in state.missing)


@pytest.mark.slow
def test_a_diff_of_200_megabytes_is_not_held_in_memory(repository):
    """The peak of a process that reads it is far below the diff."""
    path = repository.write("large.bin", b"")
    repository.git("add", "large.bin")
    with path.open("wb") as file:
        for _ in range(200):
            file.write(os.urandom(1_000_000))
    script = (
        "import resource, sys; from pathlib import Path; from llmrun.provenance.git_reader import read_git\n"
        "from llmrun.provenance.git_state import Patch\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "state = read_git(Path(sys.argv[1]), patch=Patch(bytes_max=1 << 30))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, len(state.dirty))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, repository.path], check=True, capture_output=True, text=True
    )
    added_kib, dirty = map(int, done.stdout.split())

    assert dirty == 1
    assert added_kib < 100_000
