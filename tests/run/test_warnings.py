"""Warnings of a running segment are read line by line while they are written, in allocated room."""

from llmrun.run.warnings import WARNINGS_BYTES, WarningsTail, WarningsWriter
from llmrun.storage.durable import Disk


def test_lines_are_read_once_as_they_come(tmp_path):
    """A reader that looks again and again gets each line once, and nothing before there is a file."""
    path = tmp_path / "remarks.txt"
    tail = WarningsTail(path)
    assert tail.new_lines() == []

    writer = WarningsWriter(path)
    assert tail.new_lines() == []
    writer.write("no checkpoint at step 5:\n the disk is full")
    writer.write("μ")
    assert tail.new_lines() == ["no checkpoint at step 5: the disk is full", "μ"]
    assert tail.new_lines() == []
    writer.write("again")
    assert tail.new_lines() == ["again"]


def test_the_room_is_kept_and_never_outgrown(tmp_path):
    """The file has its full size from the start, and what does not fit is left to the outcome."""
    path = tmp_path / "remarks.txt"
    writer = WarningsWriter(path)
    assert path.stat().st_size == WARNINGS_BYTES

    for number in range(10_000):
        writer.write(f"warning {number}")
    assert path.stat().st_size == WARNINGS_BYTES
    lines = WarningsTail(path).new_lines()
    assert lines == [f"warning {number}" for number in range(len(lines))]
    assert len(lines) > 4_000


def test_no_room_at_the_start_is_no_error(tmp_path):
    """If the file cannot be made, warnings only come at the end."""

    class Full(Disk):
        def create(self, path):
            raise OSError(28, "No space left on device")

    writer = WarningsWriter(tmp_path / "remarks.txt", Full())
    writer.write("unheard")
    assert WarningsTail(tmp_path / "remarks.txt").new_lines() == []
