"""The launcher on a full disk: exit codes 3 and 4 with the file's name, never a bug."""

import errno
import os

import pytest

from llmrun.errors import RefusedError, RunFailedError
from llmrun.launch.prepared_segment import NothingToDo
from llmrun.run.lock import RunLock, live_owner
from llmrun.storage.durable import Disk

NO_SPACE = os.strerror(errno.ENOSPC)


@pytest.fixture
def full(monkeypatch):
    """A disk without room for files whose name has `name` in it, until `full.over()`."""
    create = Disk.create

    def fill(name: str) -> None:
        def refusing(self, path):
            if name in path.name:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            return create(self, path)

        monkeypatch.setattr(Disk, "create", refusing)

    fill.over = lambda: monkeypatch.setattr(Disk, "create", create)
    return fill


class FillingBackend:
    """Starts the workers of another backend, and fills the disk when they have ended."""

    def __init__(self, backend, fill) -> None:
        self.backend, self.fill = backend, fill

    def __getattr__(self, name):
        return getattr(self.backend, name)

    def start(self, job):
        """The whole segment, then no room for run.json."""
        workers = self.backend.start(job)
        self.fill("run.json")
        return workers


def test_a_finished_run_whose_record_cannot_be_written(project, full):
    """Exit 4 with the file's name; once there is room, a resume finds the run finished."""
    prepared = project.prepare()
    project.backend = FillingBackend(project.backend, full)
    ended = project.go(prepared)
    error = ended.error(prepared.run)

    assert isinstance(error, RunFailedError)
    assert "runs/demo/run.json" in error.message
    assert NO_SPACE in error.message
    assert "llmrun resume runs/demo" in error.hints[-1]
    assert live_owner(project.run.lock_file) is None

    full.over()
    assert isinstance(project.resume(), NothingToDo)
    assert project.record.status == "finished"


def test_the_segments_own_error_comes_first(project, full):
    """Workers that died are the error; that run.json could not be written is a warning."""
    prepared = project.prepare()
    project.backend.dies_after = 13
    project.backend = FillingBackend(project.backend, full)
    ended = project.go(prepared)

    (warning,) = ended.end.warnings
    assert str(ended.error(project.run).where).endswith("segment-001/torchrun.log")
    assert "runs/demo/run.json" in warning
    assert NO_SPACE in warning


def test_no_room_for_orders(project, full):
    """Full just before the workers start: exit 4, no worker, the lock is free."""
    prepared = project.prepare()
    full("orders.json")
    with pytest.raises(RunFailedError) as caught:
        project.go(prepared)

    assert "runs/demo: " + NO_SPACE in caught.value.message
    assert project.backend.jobs == []
    assert live_owner(project.run.lock_file) is None


@pytest.mark.parametrize("name", ["run.json", "git.json", "config.yaml"])
def test_a_new_run_on_a_full_disk_is_refused(project, full, name):
    """Exit 3, and nothing is left behind."""
    full(name)
    with pytest.raises(RefusedError) as caught:
        project.train()

    assert "runs: " + NO_SPACE in caught.value.message
    assert list((project.path / "runs").iterdir()) == []


def test_a_new_run_whose_lock_finds_no_room(project, monkeypatch):
    """The draft is gone, also where not even its lock could be written."""

    def refusing(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", refusing)
    with pytest.raises(RefusedError, match=r"cannot write .*run\.lock: No space left on device"):
        project.train()

    assert list((project.path / "runs").iterdir()) == []


@pytest.mark.parametrize("name", ["git.json", "ledger-tail"])
def test_a_resume_on_a_full_disk_is_refused(interrupted, full, name):
    """The cut tail, the provenance: exit 3, the lock is free, and with room it goes on."""
    full(name)
    with pytest.raises(RefusedError) as caught:
        interrupted.resume()

    assert caught.value.message.endswith(NO_SPACE)
    assert live_owner(interrupted.run.lock_file) is None

    full.over()
    assert interrupted.resume().end.why == "finished"


def test_a_segment_that_cannot_be_closed_is_a_refusal(interrupted, full, changed):
    """A killed launcher left it open, and there is no room to say so: exit 3."""
    record = interrupted.record
    opened = changed(record.segments[0], why=None, to_step=None, ended=None)
    changed(record, status="running", segments=[opened]).write(interrupted.run.record_file)
    full("run.json")

    assert f"{interrupted.run.path}: {NO_SPACE}" in interrupted.refusal().message


def test_a_lock_that_is_half_written_is_refused(tmp_path, monkeypatch):
    """The disk takes a part of the owner and no more: exit 3, and nobody holds the lock."""
    pwrite, taken = os.pwrite, []

    def partly(descriptor, content, offset):
        if taken:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken.append(offset)
        return pwrite(descriptor, content[:10], offset)

    monkeypatch.setattr(os, "pwrite", partly)
    with pytest.raises(RefusedError, match=r"cannot write .*run\.lock: No space left on device"):
        RunLock.acquire(tmp_path / "run.lock")
    monkeypatch.undo()

    assert live_owner(tmp_path / "run.lock") is None
    RunLock.acquire(tmp_path / "run.lock").release()


def test_a_new_owner_needs_no_room_of_its_own(tmp_path, monkeypatch):
    """A dead owner's lock is overwritten before it is cut: its block is used again."""
    path, pwrite, sizes = tmp_path / "run.lock", os.pwrite, []
    path.write_bytes(b"torn" * 500)

    def noting(descriptor, content, offset):
        sizes.append(path.stat().st_size)
        return pwrite(descriptor, content, offset)

    monkeypatch.setattr(os, "pwrite", noting)
    lock = RunLock.acquire(path)
    owner = live_owner(path)
    lock.release()

    assert sizes == [2000]
    assert owner is not None
    assert owner.pid == os.getpid()
