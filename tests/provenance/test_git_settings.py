"""The same tree gives the same diff, whatever the user has configured, and submodules are part of the tree."""

import os

import pytest

from llmrun.provenance.git_difference import compare_repository
from llmrun.provenance.git_reader import read_git

SETTINGS = """
[core]
    quotePath = true
    pager = false
    attributesFile = {attributes}
    compression = 9
    looseCompression = 0
    bigFileThreshold = 1
    abbrev = 12
    autocrlf = input
    safecrlf = true
    fsmonitor = /bin/false
[color]
    ui = always
    diff = always
[diff]
    noprefix = true
    mnemonicPrefix = true
    external = /bin/false
    renames = copies
    algorithm = patience
    context = 9
    interHunkContext = 30
    indentHeuristic = false
    suppressBlankEmpty = true
    orderFile = {order}
    submodule = log
    ignoreSubmodules = all
    relative = true
    colorMoved = zebra
    wsErrorHighlight = all
"""


def content(state):
    """The patch."""
    return b"".join(state.diff.blocks())


@pytest.fixture
def dirty(repository):
    """A change of every kind whose patch a setting can alter."""
    lines = [f"line {number}\n" for number in range(60)]
    repository.write("long.txt", "".join(lines))
    repository.write("blob.bin", bytes(range(256)) * 40)
    repository.write("läng.txt", "1\n\n2\n")
    repository.write("renamed.txt", "same\n" * 20)
    repository.commit()
    lines[10], lines[30] = "changed\n", "changed\r\n"
    repository.write("long.txt", "".join(lines))
    repository.write("blob.bin", bytes(range(256)) * 41)
    repository.write("läng.txt", "1\n\n3\n")
    repository.git("mv", "renamed.txt", "new name.txt")
    return repository


def test_the_diff_does_not_depend_on_settings(dirty, monkeypatch, tmp_path):
    """Neither on files of configuration nor on variables; from a directory below it is the same."""
    plain = read_git(dirty.path)
    (tmp_path / "order").write_text("new*\n*.bin\n")
    (tmp_path / "attributes").write_text("*.txt -diff\n")
    config = tmp_path / "gitconfig"
    config.write_text(SETTINGS.format(order=tmp_path / "order", attributes=tmp_path / "attributes"))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    monkeypatch.setenv("GIT_DIFF_OPTS", "--unified=1")
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", "/bin/false")
    other = read_git(dirty.path / "model")

    assert plain.incomplete == other.incomplete == ()
    assert content(other) == content(plain)
    assert other.identity() == plain.identity()
    assert len(plain.dirty) == 5


def test_the_diff_does_not_depend_on_the_number_of_objects(dirty):
    """Git shortens the names of blobs by how many there are."""
    before = content(read_git(dirty.path))
    dirty.git("config", "core.abbrev", "40")

    assert content(read_git(dirty.path)) == before


def test_equal_contents_are_no_difference_though_the_patch_is_another(dirty):
    """A record of an older version, or of another git, has other bytes for the same tree."""
    state = read_git(dirty.path)
    old = {**state.identity(), "diff_sha256": "0" * 64}
    found = compare_repository(old, state)

    assert (found.refuses, found.unknown) == (False, ())


def test_line_ends_of_a_checkout_are_no_difference(repository):
    """A file that git wrote with CRLF and that was touched since is as it was."""
    repository.git("config", "core.autocrlf", "true")
    (repository.path / "notes.md").unlink()
    repository.git("checkout", "notes.md")
    os.utime(repository.path / "notes.md", (2, 2))
    repository.git("update-index", "--refresh")
    old = read_git(repository.path).identity()
    os.utime(repository.path / "notes.md", (1, 1))
    new = read_git(repository.path)

    assert b"\r\n" in (repository.path / "notes.md").read_bytes()
    assert old["dirty"] == {}
    assert not compare_repository(old, new).refuses


@pytest.fixture
def with_submodule(repository, tmp_path):
    """A repository with a submodule that has a submodule."""
    inner, outer = (type(repository)(tmp_path / name) for name in ("inner", "outer"))
    inner.write("deep.py", "d = 1\n")
    inner.commit()
    outer.write("layer.py", "w = 1\n")
    outer.git("-c", "protocol.file.allow=always", "submodule", "add", "--quiet", str(inner.path), "in")
    outer.commit()
    add = ("submodule", "add", "--quiet", str(outer.path), "libs/outer")
    repository.git("-c", "protocol.file.allow=always", *add)
    repository.git(
        "-c", "protocol.file.allow=always", "submodule", "update", "--init", "--recursive", "--quiet"
    )
    repository.commit("with a submodule")
    return repository


def test_edits_in_submodules_are_on_record_and_named(with_submodule):
    """Also a second edit of the same file, in a submodule of a submodule."""
    clean = read_git(with_submodule.path)
    with_submodule.write("libs/outer/in/deep.py", "d = 2\n")
    edited = read_git(with_submodule.path)
    with_submodule.write("libs/outer/in/deep.py", "d = 3\n")
    again = read_git(with_submodule.path)

    assert list(clean.submodules) == ["libs/outer", "libs/outer/in"]
    assert (clean.diff.bytes, clean.missing) == (0, ())
    assert b"+++ b/libs/outer/in/deep.py" in content(edited)
    assert compare_repository(clean.identity(), edited).files == ("libs/outer/in/deep.py",)
    assert compare_repository(edited.identity(), again).files == ("libs/outer/in/deep.py",)
    assert not compare_repository(again.identity(), again).refuses


def test_a_commit_in_a_submodule_is_named(with_submodule):
    """Whether the repository around it has committed that or not."""
    clean = read_git(with_submodule.path).identity()
    inner = type(with_submodule)(with_submodule.path / "libs" / "outer")
    inner.write("layer.py", "w = 2\n")
    inner.commit()
    moved = compare_repository(clean, read_git(with_submodule.path))
    with_submodule.commit("moves on")
    committed = compare_repository(clean, read_git(with_submodule.path))

    for found in (moved, committed):
        assert len(found.submodules) == 1
        assert found.submodules[0].startswith("submodule libs/outer: ")
        assert "libs/outer/layer.py" in found.files
    assert committed.commits is not None


def test_a_submodule_that_is_not_checked_out(with_submodule, tmp_path):
    """It is not taken for the repository around it."""
    clone = tmp_path / "clone"
    with_submodule.git("clone", "--quiet", str(with_submodule.path), str(clone))
    state = read_git(clone)

    assert state.submodules["libs/outer"].commit is None
    assert state.missing == ()


def test_a_record_without_submodules_is_not_called_equal(with_submodule):
    """An older version of llmrun did not record them: that is no difference, and it is reported."""
    state = read_git(with_submodule.path)
    old = state.identity()
    del old["submodules"], old["incomplete"]
    found = compare_repository(old, state)

    assert not found.refuses
    assert found.unknown


def test_what_could_not_be_read_is_neither_equal_nor_different(repository):
    """Then or now: it refuses nothing, and the reason is given.  A known difference still refuses."""
    repository.write("model/net.py", "width = 2\n")
    old = read_git(repository.path).identity()
    index = (repository.path / ".git" / "index").read_bytes()
    (repository.path / ".git" / "index").write_bytes(b"broken")
    broken = read_git(repository.path)
    unread = compare_repository(old, broken)
    repository.write("model/net.py", "width = 3\n")
    changed = compare_repository(old, broken)
    (repository.path / ".git" / "index").write_bytes(index)
    later = compare_repository(broken.identity(), read_git(repository.path))

    assert (unread.refuses, bool(unread.unknown)) == (False, True)
    assert (changed.refuses, changed.files) == (True, ("model/net.py",))
    assert (later.refuses, bool(later.unknown)) == (False, True)


def test_a_git_that_is_gone_is_not_another_commit(repository, monkeypatch, tmp_path):
    """A node without git does not refuse; a directory without a repository does."""
    old = read_git(repository.path).identity()
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    outside = compare_repository(old, read_git(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    without = compare_repository(old, read_git(repository.path))

    assert outside.refuses
    assert (without.refuses, bool(without.unknown)) == (False, True)
