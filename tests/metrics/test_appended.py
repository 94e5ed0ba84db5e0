import errno
import os
import threading
from pathlib import Path

import pytest

from llmrun.errors import DiskFullError, RunFailedError
from llmrun.storage.durable import Disk
from llmrun.storage.metrics import jsonl as appended
from llmrun.storage.metrics.jsonl import AppendedFile


class Recording(Disk):
    """Notes what reaches the device."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def fsync(self, descriptor: int) -> None:
        self.calls.append("fsync")
        super().fsync(descriptor)

    def close(self, descriptor: int) -> None:
        self.calls.append("close")
        super().close(descriptor)


def test_sync_and_close_reach_the_device(tmp_path: Path) -> None:
    """A write is in the file at once, a sync and a close force it down, in that order."""
    disk = Recording()
    file = AppendedFile(tmp_path / "file", disk)
    file.write(b"one")
    assert (tmp_path / "file").read_bytes() == b"one"
    assert disk.calls == []

    file.sync()
    file.close()
    assert disk.calls == ["fsync", "fsync", "close"]


def test_failing_device_is_named_and_the_file_closed(tmp_path: Path) -> None:
    """Where the device refuses, the error names the file and the descriptor is not leaked."""

    class Broken(Recording):
        def fsync(self, descriptor: int) -> None:
            self.calls.append(f"refused {descriptor > 2}")
            raise OSError(5, "Input/output error")

    disk = Broken()
    file = AppendedFile(tmp_path / "file", disk)
    with pytest.raises(RunFailedError, match="file: Input/output error"):
        file.close()

    assert disk.calls == ["refused True", "close"]


def test_missing_directory_is_named(tmp_path: Path) -> None:
    """A file that cannot be opened is an error that the user can read."""
    with pytest.raises(RunFailedError, match="file: No such file or directory"):
        AppendedFile(tmp_path / "nowhere" / "file")


class Tight(Disk):
    """Has room for `room` more bytes, and takes as many as fit before it refuses."""

    def __init__(self, room: int) -> None:
        self.room = room

    def write(self, descriptor: int, block: memoryview) -> None:
        taken = min(self.room, len(block))
        self.room -= taken
        super().write(descriptor, block[:taken])
        if taken < len(block):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_on_a_full_disk_lines_wait_and_none_is_torn_or_doubled(tmp_path: Path) -> None:
    """The disk takes half a line: the rest goes first once there is room, and a sync before says so."""
    disk = Tight(room=10)
    file = AppendedFile(tmp_path / "file", disk)
    file.write(b"line 1\n")
    file.write(b"line 2\n")
    assert (tmp_path / "file").read_bytes() == b"line 1\nlin"
    file.write(b"line 3\n")
    with pytest.raises(DiskFullError, match="file: No space left on device"):
        file.sync()

    disk.room = 1000
    file.write(b"line 4\n")
    file.close()
    assert (tmp_path / "file").read_bytes() == b"line 1\nline 2\nline 3\nline 4\n"


def test_what_waits_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run does not fill its memory with lines: beyond the limit it stops, and closing says why."""
    monkeypatch.setattr(appended, "WAITING_BYTES_MAX", 20)
    file = AppendedFile(tmp_path / "file", Tight(room=0))
    file.write(b"x" * 15)
    with pytest.raises(DiskFullError):
        file.write(b"x" * 15)
    with pytest.raises(DiskFullError):
        file.close()


def test_another_refusal_than_a_full_disk_is_an_error_at_once(tmp_path: Path) -> None:
    """A device that fails is not waited for."""

    class Broken(Disk):
        def write(self, descriptor: int, block: memoryview) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    file = AppendedFile(tmp_path / "file", Broken())
    with pytest.raises(RunFailedError, match="file: Input/output error") as caught:
        file.write(b"line\n")
    assert not isinstance(caught.value, DiskFullError)


def test_a_sync_beside_a_write_doubles_nothing(tmp_path: Path) -> None:
    """A thread syncs while a line is on its way to the system: the line stands there once."""

    class Slow(Disk):
        def __init__(self) -> None:
            self.writing, self.go = threading.Event(), threading.Event()

        def write(self, descriptor: int, block: memoryview) -> None:
            self.writing.set()
            assert self.go.wait(10)
            super().write(descriptor, block)

    disk = Slow()
    file = AppendedFile(tmp_path / "file", disk)
    writer = threading.Thread(target=file.write, args=(b"line 1\n",))
    writer.start()
    assert disk.writing.wait(10)
    syncer = threading.Thread(target=file.sync)
    syncer.start()
    syncer.join(0.2)
    disk.go.set()
    writer.join()
    syncer.join()
    file.close()

    assert (tmp_path / "file").read_bytes() == b"line 1\n"
