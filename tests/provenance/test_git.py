"""What the repository says, asked of real repositories."""

import hashlib
import json
import os
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.provenance.git_difference import files_that_differ
from llmrun.provenance.git_reader import read_git
from llmrun.provenance.redaction import without_credentials


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def content(state):
    """The patch."""
    return b"".join(state.diff.blocks())


def test_a_clean_repository(repository):
    """Commit, branch and root are known, nothing is dirty, nothing is missing."""
    state = read_git(repository.path)

    assert state.commit == repository.git("rev-parse", "HEAD")
    assert state.branch == "main"
    assert state.root_commits == (state.commit,)
    assert (content(state), state.dirty, state.untracked_names, state.missing) == (b"", {}, (), ())
    assert state.incomplete == ()


def test_the_repository_is_found_from_below_and_told_by_its_root(repository):
    """A sub-directory belongs to the same repository; a later commit does not change the root."""
    root = repository.git("rev-parse", "HEAD")
    repository.write("more.py", "1\n")
    head = repository.commit()
    state = read_git(repository.path / "model")

    assert state.root_commits == (root,)
    assert state.commit == head


def test_the_dirty_diff_rebuilds_the_tree(repository, tmp_path):
    """Staged, unstaged, new, deleted and binary changes: applying the diff to the commit gives them all."""
    repository.write("model/net.py", "width = 2\n")
    repository.git("add", "model/net.py")
    repository.write("model/net.py", "width = 3\n")
    repository.write("blob.bin", bytes(range(256)))
    repository.git("add", "blob.bin")
    (repository.path / "notes.md").unlink()
    state = read_git(repository.path)
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", repository.path, clone], check=True)
    subprocess.run(["git", "apply", "--binary", "-"], cwd=clone, input=content(state), check=True)

    assert (clone / "model/net.py").read_text() == "width = 3\n"
    assert (clone / "blob.bin").read_bytes() == bytes(range(256))
    assert not (clone / "notes.md").exists()
    assert state.dirty == {
        "blob.bin": sha256(bytes(range(256))),
        "model/net.py": sha256(b"width = 3\n"),
        "notes.md": None,
    }


def test_untracked_files_have_names_sizes_and_times(repository):
    """Names with spaces and letters of all kinds, links, ignored files left out; hashed if a worker imports them."""
    repository.write("new file ü.py", "x = 1\n")
    repository.write(".gitignore", "*.log\n")
    repository.write("train.log", "no\n")
    (repository.path / "link").symlink_to("nowhere")
    repository.write("src/layers.py", "y = 1\n")
    os.utime(repository.path / "new file ü.py", (0, 86_400))
    state = read_git(repository.path).with_untracked({"layers.py": "not the digest of the file"})
    found = {file.name: (file.bytes, file.sha256) for file in state.untracked.listed}

    assert found == {
        ".gitignore": (6, None),
        "link": (7, None),
        "new file ü.py": (6, None),
        "src/layers.py": (6, sha256(b"y = 1\n")),
    }
    assert state.untracked.listed[2].modified == "1970-01-02T00:00:00+00:00"
    assert state.untracked.more == 0


def test_runs_and_data_are_left_out_of_the_untracked(repository):
    """What the project itself makes is not the user's code; a neighbour with a longer name is."""
    repository.write("runs/demo/ledger.bin", "1")
    repository.write("data/demo/train-00000.bin", "2")
    repository.write("runs.py", "3")
    left_out = [repository.path / "runs", repository.path / "data" / "demo"]

    assert read_git(repository.path, left_out).untracked_names == ("runs.py",)


def test_outside_a_repository_it_says_what_is_missing(tmp_path, monkeypatch):
    """No repository is not an error, but it is said."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    state = read_git(tmp_path)

    assert state.commit is None
    assert len(state.missing) == 1
    assert str(tmp_path) in state.missing[0]
    assert state.incomplete == ()


def test_without_the_git_command_it_says_so(tmp_path, monkeypatch):
    """A machine without git records that it has none."""
    monkeypatch.setenv("PATH", str(tmp_path))

    assert "git command is not installed" in read_git(tmp_path).missing[0]


def test_a_repository_without_a_commit(tmp_path, repository):
    """What is staged is the diff; what is missing is said."""
    empty = type(repository)(tmp_path / "empty")
    empty.write("a.py", "a = 1\n")
    empty.git("add", "a.py")
    state = read_git(empty.path)

    assert state.commit is None
    assert state.dirty == {"a.py": sha256(b"a = 1\n")}
    assert b"+a = 1" in content(state)
    assert "has no commit yet" in state.missing[0]


def test_a_detached_head_has_no_branch(repository):
    """A checkout of a commit is on record as that."""
    repository.git("checkout", "--quiet", "--detach")

    assert read_git(repository.path).branch is None


def test_no_credential_of_a_remote_reaches_the_record(repository):
    """User names, tokens and passwords in addresses of remotes are not written down."""
    repository.git("remote", "add", "origin", "https://alice:s3cret@example.org/r.git?token=s3cret#s3cret")
    repository.git("remote", "add", "odd.name", "git@example.org:team/r.git")
    document = json.dumps(read_git(repository.path).as_json())

    assert "s3cret" not in document
    assert read_git(repository.path).remotes == {
        "origin": "https://example.org/r.git",
        "odd.name": "git@example.org:team/r.git",
    }


@pytest.mark.parametrize(
    ("url", "clean"),
    [
        ("https://s3cret@example.org:8443/r.git", "https://example.org:8443/r.git"),
        ("ssh://git:s3cret@example.org:22/r.git", "ssh://git@example.org:22/r.git"),
        ("https://a:s3cret@[::1]/r.git", "https://[::1]/r.git"),
        ("git:s3cret@example.org:r.git", "git@example.org:r.git"),
        ("/srv/git/r.git", "/srv/git/r.git"),
        ("../r.git", "../r.git"),
        ("https://example.org:s3cret/r.git", "(withheld: not a well-formed address)"),
        ("ext::sh -c 's3cret'", "(withheld: a transport helper)"),
        ("helper::https://u:s3cret@example.org/r", "(withheld: a transport helper)"),
        ("--url=https://u:s3cret@example.org/r", "(withheld: not a well-formed address)"),
        ("s3cret@x/y@z", "(withheld: not a well-formed address)"),
    ],
)
def test_addresses_without_credentials(url, clean):
    """Each form of address that git knows, and those it does not."""
    assert without_credentials(url) == clean


@given(
    st.text(st.characters(categories=["L", "N"]), min_size=12),
    st.sampled_from(["https", "http", "ftp", "git+https"]),
)
def test_any_password_is_stripped(password, scheme):
    """Whatever stands before the @ of a web address is gone."""
    assert password not in without_credentials(f"{scheme}://user:{password}@example.org/r")


def test_files_that_differ_between_commits_and_trees(repository):
    """By content: committed, reverted, dirty then and dirty now."""
    repository.write("model/net.py", "width = 2\n")
    then = read_git(repository.path).identity()
    repository.write("notes.md", "other\n")
    repository.commit()
    repository.write("added.py", "1\n")
    repository.git("add", "added.py")

    assert files_that_differ(read_git(repository.path), then) == ["added.py", "notes.md"]


def test_committing_a_dirty_tree_changes_no_file(repository):
    """Another commit with the same content: no file differs."""
    repository.write("model/net.py", "width = 2\n")
    then = read_git(repository.path).identity()
    repository.commit()

    assert files_that_differ(read_git(repository.path), then) == []


def test_a_commit_that_is_gone_is_said(repository, tmp_path):
    """In another clone the old commit may be unknown."""
    then = {**read_git(repository.path).identity(), "commit": "1" * 40}

    assert files_that_differ(read_git(repository.path), then) is None


def test_a_refusing_git_is_quoted(repository):
    """A repository of somebody else: git's own words reach the user."""
    (repository.path / ".git" / "config").write_text("[core\n")
    state = read_git(repository.path)

    assert state.commit is None
    assert "cannot read the git repository of" in state.missing[0]
    assert "bad config" in state.missing[0]


def test_reading_changes_nothing(repository):
    """Not even the index's time: reading a repository takes no lock in it."""
    repository.write("model/net.py", "width = 2\n")
    index = repository.path / ".git" / "index"
    os.utime(index, (1, 1))
    read_git(repository.path)

    assert index.stat().st_mtime == 1
