from pathlib import Path

import pytest

from llmrun.durable import Disk
from llmrun.errors import RunFailedError
from llmrun.metrics.appended import AppendedFile


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
    with pytest.raises(RunFailedError, match="file could not be written: Input/output error"):
        file.close()

    assert disk.calls == ["refused True", "close"]


def test_missing_directory_is_named(tmp_path: Path) -> None:
    """A file that cannot be opened is an error that the user can read."""
    with pytest.raises(RunFailedError, match="file could not be written: No such file or directory"):
        AppendedFile(tmp_path / "nowhere" / "file")
