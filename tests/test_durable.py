"""Files are whole or absent, whatever operation fails."""

import errno
import hashlib
import itertools
import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.storage.durable import (
    BLOCK_BYTES,
    SEND_BYTES,
    Disk,
    blocks_of,
    commit_directory,
    make_directories,
    replace_file,
    replace_json,
    replace_reserved,
    replace_text,
    reserve,
    sha256_of,
    sha256_over,
    write_new,
    write_unhashed,
)

OPERATIONS = [
    "create",
    "write",
    "size",
    "fsync",
    "close",
    "rename",
    "fsync_directory",
    "make_directory",
    "remove_file",
    "remove_tree",
]


class ListingDisk(Disk):
    """Notes each operation, and fails the one with number `fails_at`."""

    def __init__(self, fails_at: int = 0) -> None:
        self.fails_at = fails_at
        self.names: list[str] = []

    def __getattribute__(self, name: str) -> object:
        if name in OPERATIONS:
            self.names.append(name)
            # A failing close still gives the descriptor back, as the system does.
            if len(self.names) == self.fails_at and name != "close":
                raise OSError(errno.EIO, "injected", name)
        return super().__getattribute__(name)


class FullDisk(Disk):
    """Takes nothing but what goes into files that are there."""

    def create(self, path):
        """No new file."""
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def test_reserved_room_takes_a_text_on_a_full_disk(tmp_path):
    """The name appears only then, with the text alone; without a reservation the disk's refusal is raised."""
    file = tmp_path / "f"
    reserve(file, 4096)
    assert not file.exists()
    assert sum(path.stat().st_blocks for path in tmp_path.iterdir()) * 512 >= 4096

    replace_reserved(file, "μ\n", FullDisk())

    assert [path.name for path in tmp_path.iterdir()] == ["f"]
    assert file.read_bytes() == "μ\n".encode()
    with pytest.raises(OSError, match="No space left"):
        replace_reserved(tmp_path / "g", "", FullDisk())


def test_reserving_again_and_writing_without_room(tmp_path):
    """A second reservation takes the place of one left over; without one the text is written as usual."""
    reserve(tmp_path / "f", 10)
    reserve(tmp_path / "f", 10)
    replace_reserved(tmp_path / "f", "one")
    replace_reserved(tmp_path / "f", "two")

    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("f", "two")]


def test_a_new_file_is_written_hashed_and_forced_to_disk(tmp_path):
    """Several contents make one file; bytes and sha256 are those of the whole; fsync comes last."""
    disk = ListingDisk()
    found = write_new(tmp_path / "f", [b"ab", b"", memoryview(b"cd")], disk)

    assert (tmp_path / "f").read_bytes() == b"abcd"
    assert found == (4, hashlib.sha256(b"abcd").hexdigest())
    assert disk.names == ["create", "write", "write", "size", "fsync", "close"]


def test_a_new_file_never_overwrites(tmp_path):
    """A file that is there already is an error and stays as it was."""
    (tmp_path / "f").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        write_new(tmp_path / "f", [b"new"])

    assert (tmp_path / "f").read_bytes() == b"old"


def test_a_large_file_is_sent_to_the_device_on_the_way(tmp_path):
    """Every byte is handed to the device while the rest is written; after the fsync it all leaves the cache."""
    content = os.urandom(2 * SEND_BYTES + BLOCK_BYTES + 8)
    done: list[tuple[str, int, int]] = []

    class Sending(Disk):
        def send(self, descriptor: int, start: int, n_bytes: int) -> None:
            done.append(("send", start, n_bytes))
            super().send(descriptor, start, n_bytes)

        def fsync(self, descriptor: int) -> None:
            done.append(("fsync", 0, 0))
            super().fsync(descriptor)

    n_bytes = write_unhashed(tmp_path / "f", [content[:100], content[100:]], Sending())
    first, second = done[0][2], done[1][2]

    assert (tmp_path / "f").read_bytes() == content
    assert n_bytes == len(content)
    assert min(first, second) >= SEND_BYTES
    assert done == [("send", 0, first), ("send", first, second), ("fsync", 0, 0), ("send", 0, n_bytes)]


def test_a_hint_that_the_system_does_not_take_fails_nothing(tmp_path, monkeypatch):
    """Some file systems know no such hints."""

    def refused(*_: object) -> None:
        raise OSError(errno.EINVAL, "no such hint")

    monkeypatch.setattr(os, "posix_fadvise", refused)

    assert write_unhashed(tmp_path / "f", [bytes(SEND_BYTES)]) == SEND_BYTES


@given(st.lists(st.binary(max_size=50), max_size=6))
def test_the_sha256_of_contents_is_that_of_their_file(parts):
    """However a file's bytes are divided."""
    assert sha256_over(parts) == hashlib.sha256(b"".join(parts)).hexdigest()


def test_an_empty_file_can_be_written(tmp_path):
    """No content at all gives an empty file and the sha256 of nothing."""
    assert write_new(tmp_path / "f", []) == (0, hashlib.sha256(b"").hexdigest())
    assert (tmp_path / "f").read_bytes() == b""


def test_large_contents_go_in_blocks():
    """Blocks are at most 1 MiB and join to the content, of any element type, without a copy."""
    content = memoryview(bytes(2 * BLOCK_BYTES + 8)).cast("Q")
    blocks = list(blocks_of(content))

    assert [len(block) for block in blocks] == [BLOCK_BYTES, BLOCK_BYTES, 8]
    assert all(block.obj is content.obj for block in blocks)
    assert list(blocks_of(b"")) == []


def test_a_write_that_takes_part_is_continued(tmp_path, monkeypatch):
    """The system may take fewer bytes than given; all arrive in the end."""
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, block: real(descriptor, block[:3]))
    write_new(tmp_path / "f", [b"0123456789"])

    assert (tmp_path / "f").read_bytes() == b"0123456789"


def test_a_disk_that_loses_bytes_is_noticed(tmp_path):
    """Where the file is shorter than what was written, the write fails before the fsync."""

    class Losing(ListingDisk):
        def write(self, descriptor: int, block: memoryview) -> None:
            super().write(descriptor, block[:-1])

    disk = Losing()
    with pytest.raises(OSError, match="3 bytes arrived of 4"):
        write_new(tmp_path / "f", [b"abcd"], disk)

    assert "fsync" not in disk.names


def test_replacing_keeps_the_order_of_a_commit(tmp_path):
    """Write, fsync, rename, then fsync of the directory."""
    disk = ListingDisk()
    replace_file(tmp_path / "f", [b"x"], disk)

    assert disk.names == [
        "remove_file",
        "create",
        "write",
        "size",
        "fsync",
        "close",
        "rename",
        "fsync_directory",
    ]


def test_replacing_leaves_old_or_new_whatever_fails(tmp_path):
    """The n-th operation fails, for every n: the name holds the old or the new content, nothing is left over."""
    for fails_at in itertools.count(1):
        directory = tmp_path / str(fails_at)
        directory.mkdir()
        (directory / "f").write_bytes(b"old")
        disk = ListingDisk(fails_at)
        try:
            replace_file(directory / "f", [b"new"], disk)
        except OSError:
            assert (directory / "f").read_bytes() in (b"old", b"new")
            assert [entry.name for entry in directory.iterdir()] == ["f"]
            continue
        if len(disk.names) < fails_at:
            break

    assert (directory / "f").read_bytes() == b"new"
    assert fails_at > 7


def test_text_is_utf8_and_json_is_strict(tmp_path):
    """Text is UTF-8; JSON is readable, ends with a newline, and refuses NaN, leaving the old file."""
    replace_text(tmp_path / "t", "μ_tok\n")
    replace_json(tmp_path / "j", {"μ": 1})
    before = (tmp_path / "j").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="Out of range float"):
        replace_json(tmp_path / "j", {"loss": float("nan")})

    assert (tmp_path / "t").read_bytes() == "μ_tok\n".encode()
    assert json.loads(before) == {"μ": 1}
    assert before.endswith("}\n")
    assert (tmp_path / "j").read_text(encoding="utf-8") == before


def test_a_directory_gets_its_name_after_its_files_are_certain(tmp_path):
    """The directory is fsynced, renamed, then its parent is fsynced."""
    (tmp_path / "t").mkdir()
    disk = ListingDisk()
    commit_directory(tmp_path / "t", tmp_path / "final", disk)

    assert disk.names == ["fsync_directory", "rename", "fsync_directory"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["final"]


def test_a_directory_never_replaces_another(tmp_path):
    """Where the final name is taken, even by an empty directory, nothing is changed."""
    (tmp_path / "t").mkdir()
    (tmp_path / "final").mkdir()
    with pytest.raises(FileExistsError, match="final exists"):
        commit_directory(tmp_path / "t", tmp_path / "final")

    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["final", "t"]


def test_directories_are_made_with_their_names_certain(tmp_path):
    """Each missing directory is made and its parent fsynced; what is there is left alone."""
    disk = ListingDisk()
    make_directories(tmp_path / "a" / "b", disk)
    make_directories(tmp_path / "a" / "b", disk)

    assert (tmp_path / "a" / "b").is_dir()
    assert disk.names == ["make_directory", "fsync_directory"] * 2


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_modes_follow_the_umask_and_never_let_everybody_write(tmp_path, umask):
    """Files and directories take the user's umask, without the world's write bit."""
    before = os.umask(umask)
    try:
        replace_text(tmp_path / "f", "x")
        make_directories(tmp_path / "d")
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o664 & ~umask
    assert stat.S_IMODE((tmp_path / "d").stat().st_mode) == 0o775 & ~umask


def test_room_that_is_reserved_stays_when_written_into(tmp_path):
    """A file with reserved room is zeros of that size; writing at its beginning keeps the size."""
    disk = Disk()
    path: Path = tmp_path / "f"
    descriptor = disk.create(path)
    disk.allocate(descriptor, 0, 4096)
    disk.close(descriptor)
    descriptor = disk.open(path)
    disk.write(descriptor, memoryview(b"abc"))
    disk.close(descriptor)

    assert path.read_bytes() == b"abc" + bytes(4093)


def test_the_sha256_of_a_file(tmp_path):
    """The sha256 of a file equals that of its bytes."""
    (tmp_path / "f").write_bytes(b"x" * 100_000)

    assert sha256_of(tmp_path / "f") == hashlib.sha256(b"x" * 100_000).hexdigest()
