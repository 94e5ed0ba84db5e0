"""A run that cannot keep its checkpoints is refused before it starts, with the numbers."""

import errno
import os
from pathlib import Path
from typing import NamedTuple

import pytest

from llmrun.errors import RefusedError
from llmrun.storage.checkpoint.errors import CheckpointWriteError
from llmrun.storage.checkpoint.space import check_room, free_bytes, held_bytes, preflight


class Room(NamedTuple):
    """What os.statvfs says, as far as we ask."""

    f_bavail: int
    f_frsize: int


@pytest.fixture
def small_disk(monkeypatch):
    """A disk that says it has 1,024 MiB left."""
    monkeypatch.setattr(os, "statvfs", lambda _path: Room(262_144, 4096))


def test_room_for_all_checkpoints_passes(small_disk, tmp_path):
    """Exactly as much as needed is enough, and the trial leaves nothing behind."""
    preflight(tmp_path, checkpoint_bytes=2**28, count=4, where=tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_too_little_disk_is_refused_with_numbers(small_disk, tmp_path):
    """The refusal states count, size, what is needed and what is free, and exits with 3."""
    with pytest.raises(RefusedError) as raised:
        preflight(tmp_path, checkpoint_bytes=2**28 + 1, count=4, where=Path("runs"))

    assert (
        raised.value.message
        == "not enough disk space: 4 checkpoints of 268 MB need 1.07 GB more, 1.07 GB are free"
    )
    assert str(raised.value.where) == "runs"
    assert raised.value.exit_code == 3


def test_checkpoints_that_are_there_count(small_disk, states, tmp_path):
    """What a resumed run has already needs no new room."""
    states.save(tmp_path, 8, disk=states.quick)
    held = held_bytes(tmp_path)

    assert held == sum(entry.stat().st_size for entry in (tmp_path / "step-00000008").iterdir())

    preflight(tmp_path, checkpoint_bytes=2**30 + held, count=1, where=tmp_path)


def test_what_a_link_points_at_is_not_the_runs(tmp_path):
    """Files outside the run are no room that it has already."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").write_bytes(bytes(1000))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-00000008").symlink_to(tmp_path / "elsewhere")

    assert held_bytes(tmp_path / "checkpoints") == 0


@pytest.mark.parametrize("fails_at", range(1, 8))
def test_every_operation_of_the_trial_may_fail(states, tmp_path, fails_at):
    """A disk that refuses any operation of a commit is refused with the reason."""
    with pytest.raises(RefusedError, match="cannot write checkpoints: ") as raised:
        preflight(tmp_path, 0, 1, Path("runs"), states.FaultyDisk(fails_at, for_ever=True))

    assert str(raised.value.where) == "runs"
    assert raised.value.hints == ("make the directory writable, or set another `runs_dir`",)


def test_a_directory_that_is_gone_is_refused(tmp_path):
    """A missing directory is refused by the trial, not created."""
    with pytest.raises(RefusedError, match="cannot write checkpoints: No such file or directory"):
        preflight(tmp_path / "gone", 0, 1, tmp_path)


def test_before_a_save_a_full_disk_is_told(small_disk, tmp_path):
    """A save that will not fit is a full disk, known before anything is written."""
    check_room(tmp_path, 2**30)
    with pytest.raises(CheckpointWriteError, match=r"a checkpoint needs 1.07 GB, 1.07 GB are free") as raised:
        check_room(tmp_path, 2**30 + 1)

    assert raised.value.errno == errno.ENOSPC
    assert raised.value.disk_full


def test_free_space_is_that_of_the_nearest_parent(tmp_path):
    """A directory that is not there yet has the room of the one above it."""
    assert free_bytes(tmp_path / "a" / "b") > 0
